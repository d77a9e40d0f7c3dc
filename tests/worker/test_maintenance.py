from __future__ import annotations

from datetime import timedelta

from django.utils import timezone
from model_bakery import baker

from pgonly_django.models import Checkpoint, Job, Session, State, Step, Worker
from pgonly_django.worker.maintenance import Maintenance

PAST, FUTURE = timedelta(days=-2), timedelta(days=2)


def finished(expires_in, **values):
    expires_at = None if expires_in is None else timezone.now() + expires_in
    return baker.make(Job, state=State.SUCCEEDED, expires_at=expires_at, **values)


def test_a_round_prunes_jobs_past_their_retention_with_all_that_is_theirs(transactional_db):
    old, young, kept = finished(PAST), finished(FUTURE), finished(None)
    for job in (old, young):
        baker.make(Step, job=job, name="s")
        baker.make(Checkpoint, job=job)
    assert Maintenance("default").run_once() == 1
    assert set(Job.objects.values_list("pk", flat=True)) == {young.pk, kept.pk}
    assert list(Step.objects.values_list("job", flat=True)) == [young.pk]
    assert list(Checkpoint.objects.values_list("job", flat=True)) == [young.pk]


def test_a_round_goes_on_until_nothing_is_left(transactional_db):
    Job.objects.bulk_create(
        Job(task="t", state=State.FAILED, expires_at=timezone.now() + PAST) for _ in range(2500)
    )
    assert Maintenance("default").run_once() == 2500
    assert not Job.objects.exists()


def test_a_round_removes_expired_cache_rows_and_sessions(transactional_db):
    from pgonly_django.cache import PostgresCache
    from pgonly_django.models import CacheEntry

    cache = PostgresCache("", {})
    cache.set("old", 1, timeout=3600)
    cache.set("young", 1, timeout=3600)
    CacheEntry.objects.filter(key__contains="old").update(expires_at=timezone.now() + PAST, prune_minute=0)
    from pgonly_django.sessions import SessionStore

    for key in ("old", "young"):
        store = SessionStore()
        store["who"] = key
        store.save()
    ids = Session.objects.order_by("created_at").values_list("pk", flat=True)
    Session.objects.filter(pk=ids[0]).update(expires_at=timezone.now() + PAST)
    Maintenance("default").run_once()
    assert cache.get("young") == 1
    assert CacheEntry.objects.count() == 1
    assert Session.objects.count() == 1


def test_a_round_forgets_workers_that_were_last_heard_of_a_day_ago(transactional_db):
    baker.make(Worker, heartbeat_at=timezone.now() + PAST, queues=[])
    living = baker.make(Worker, heartbeat_at=timezone.now(), queues=[])
    Maintenance("default").run_once()
    assert list(Worker.objects.all()) == [living]
