"""Why a job waits."""

from __future__ import annotations

import pytest
from django.utils import timezone

from pgonly_django.models import Budget, Job, Limiter, Queue, State, Wait
from pgonly_django.monitoring.waiting import Kind, why_it_waits
from tests.queue.rows import HOUR, SECOND, ago, fresh, make, make_keyed, make_running, make_worker

pytestmark = pytest.mark.django_db


def kinds(job):
    return [reason.kind for reason in why_it_waits("default", fresh(job))]


def facts(job):
    return why_it_waits("default", fresh(job))[0].facts


@pytest.mark.parametrize("state", [State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_job_that_does_not_wait_has_no_reason(state):
    assert kinds(make_running(state=state)) == []


@pytest.mark.parametrize(
    "worker",
    [
        {"queues": ["other"]},
        {"silent_for": HOUR},
        {"stopped_at": timezone.now()},
        {"drain_requested_at": timezone.now()},
        {"stop_requested_at": timezone.now()},
    ],
)
def test_no_live_worker_serves_its_queue(worker):
    make_worker(**worker)
    assert kinds(make(queue="ai"))[0] == Kind.UNSERVED
    assert facts(make(queue="ai")) == {"queue": "ai"}


def test_a_job_that_a_free_worker_serves_starts_soon_unless_it_is_a_suspect_or_paused():
    make_worker()
    job = make()
    assert kinds(job) == [Kind.SOON]
    job.delete()
    assert kinds(make(crashes=2)) == [Kind.SUSPECT]
    Queue.objects.create(name="default", paused_at=ago(HOUR))
    assert kinds(make())[0] == Kind.PAUSED


def test_a_job_that_has_waited_longer_than_a_restart_takes_is_ignored_by_free_workers():
    make_worker()
    assert kinds(make(ready_at=ago(15 * SECOND / 2))) == [Kind.SOON]
    job = make(queue="ai", ready_at=ago(16 * SECOND))
    assert kinds(job) == [Kind.IGNORED]
    Job.objects.filter(pk=job.pk).update(ready_again_at=timezone.now())
    assert kinds(job) == [Kind.SOON]


def test_a_scheduled_job_is_due_at_its_time_and_overdue_after_it():
    job = make(state=State.SCHEDULED, run_at=timezone.now() + HOUR)
    assert facts(job) == {"run_at": job.run_at}
    assert kinds(job) == [Kind.DUE]
    assert kinds(make(state=State.SCHEDULED, run_at=ago(HOUR))) == [Kind.OVERDUE, Kind.UNSERVED]


def test_a_worker_of_its_queue_that_sleeps_serves_it_once_it_wakes():
    make_worker(sleeping_since=timezone.now(), silent_for=HOUR)
    assert kinds(make()) == [Kind.ASLEEP]


def test_a_limiter_of_the_queue_that_cools_down():
    make_worker()
    limiter = Limiter.objects.create(name="api", blocked_until=timezone.now() + HOUR)
    Queue.objects.create(name="default", limiter="api")
    job = make()
    assert facts(job) == {"limiter": "api", "until": limiter.blocked_until}
    Limiter.objects.update(blocked_until=ago(HOUR))
    assert kinds(job) == [Kind.SOON]


def test_a_full_queue():
    make_worker(threads=9)
    Queue.objects.create(name="default", max_running=2)
    job = make()
    make_running()
    assert kinds(job) == [Kind.SOON]
    make_running()
    assert facts(job) == {"queue": "default", "running": 2, "limit": 2}


def test_a_queue_whose_rate_is_used_up():
    from pgonly_django.models import QueueTokens

    make_worker()
    Queue.objects.create(name="default", rate_count=1, rate_seconds=3600)
    QueueTokens.objects.create(queue="default", tokens=0, refilled_at=timezone.now())
    assert facts(make()) == {"queue": "default", "count": 1, "seconds": 3600}


def test_a_full_concurrency_key():
    make_worker(threads=9)
    job, other = make_keyed("a", limit=2), make_keyed("b", limit=2)
    for _ in range(2):
        make_running(concurrency_key="a", concurrency_limit=2, slots=1)
    assert facts(job) == {"key": "a", "running": 2, "limit": 2}
    assert kinds(other) == [Kind.SOON]


def test_a_concurrency_key_that_a_waiting_job_keeps():
    make_worker()
    keeping = make_keyed("a", state=State.SCHEDULED, run_at=ago(-HOUR), lease_epoch=1)
    Wait.objects.create(job=keeping, name="event x", key="x", lease_epoch=1, kept_key="a")
    job = make_keyed("a")
    assert facts(job) == {"key": "a", "running": 1, "limit": 1}
    Job.objects.filter(pk=keeping.pk).update(state=State.READY)
    assert Kind.KEY_FULL in kinds(job)
    assert Kind.KEY_FULL not in kinds(keeping)


def test_a_job_of_more_threads_than_a_worker_has():
    make_worker(threads=2), make_worker(threads=3)
    assert facts(make(slots=4)) == {"slots": 4, "threads": 3}
    assert kinds(make(slots=3)) == [Kind.SOON]


def test_the_jobs_that_come_first_are_counted():
    make_worker(threads=2, running=2)
    job = make(priority=1)
    make(priority=5), make(priority=1, ready_at=ago(HOUR)), make(priority=1, ready_at=ago(-HOUR)), make()
    make(queue="other", priority=9), make_keyed("a", priority=9)
    reasons = why_it_waits("default", fresh(job))
    assert [reason.kind for reason in reasons] == [Kind.AHEAD, Kind.BUSY]
    assert reasons[0].facts["jobs"].number == 2
    assert reasons[1].facts == {"queue": "default", "threads": 2}


def test_the_jobs_of_its_key_that_come_first_are_counted():
    make_worker(threads=9)
    job = make_keyed("a", limit=9)
    (
        make_keyed("a", limit=9, ready_at=ago(HOUR)),
        make_keyed("b", ready_at=ago(HOUR)),
        make(ready_at=ago(HOUR)),
    )
    assert facts(job)["jobs"].number == 1


def test_a_held_job_names_what_holds_it():
    Budget.objects.create(name="p:1", usd=5, spent=5)
    by_budget = make(state=State.HELD, held_by="budget:p:1")
    assert facts(by_budget)["budget"].spent_now == 5
    assert facts(make(state=State.HELD, held_by="budget:gone")) == {"name": "gone", "budget": None}
    assert facts(make(state=State.HELD, held_by="a person")) == {"by": "a person"}


def test_several_reasons_stand_in_the_order_of_their_strength():
    Queue.objects.create(name="default", paused_at=ago(HOUR), max_running=1)
    make_running()
    job = make(crashes=2)
    assert kinds(job) == [Kind.UNSERVED, Kind.PAUSED, Kind.FULL, Kind.SUSPECT]
    assert Job.objects.count() == 2
