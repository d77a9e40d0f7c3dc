"""The verbs on workers: who is asked, and who is told."""

from __future__ import annotations

import pytest
from django.db import transaction

from pgonly_django.database import notify
from pgonly_django.models import State, Worker
from pgonly_django.models import worker as module
from tests.queue.rows import HOUR, ago, heard, make, make_running, make_worker

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("verb", ["stop", "drain"])
def test_those_are_asked_that_have_not_stopped(verb):
    live, silent = make_worker(), make_worker(silent_for=HOUR)
    make_worker(stopped_at=ago(HOUR))
    rows = Worker.objects.all()
    assert getattr(rows, verb)() == 2
    asked = Worker.objects.exclude(**{f"{verb}_requested_at": None})
    assert set(asked) == {live, silent}
    assert getattr(rows.filter(pk=live.pk), verb)() == 1  # once more, where the first NOTIFY was lost


@pytest.mark.parametrize("verb", ["stop", "drain"])
def test_the_workers_are_told_after_the_commit_each_by_its_id(verb, other):
    workers = [make_worker(), make_worker()]
    make_worker()
    other.execute(f"LISTEN {notify.CHANNEL}")
    with transaction.atomic():
        getattr(Worker.objects.filter(pk__in=[each.pk for each in workers]), verb)()
        assert heard(other) == []
    assert heard(other) == sorted(f"worker {each.pk}" for each in workers)


def test_many_are_told_by_one_notify(other, monkeypatch):
    monkeypatch.setattr(module, "TOLD_APART", 2)
    for _ in range(3):
        make_worker()
    other.execute(f"LISTEN {notify.CHANNEL}")
    assert Worker.objects.all().drain() == 3
    assert heard(other) == ["worker *"]


def test_the_jobs_that_a_worker_holds_are_counted_by_their_rows():
    """Its own number is that of its last heartbeat: it stays when the worker dies and its jobs are rescued."""
    dead, busy, idle = make_worker(running=3, silent_for=HOUR), make_worker(running=1), make_worker()
    make(worker_id=dead.pk)  # rescued: ready again
    make(worker_id=dead.pk, state=State.SUCCEEDED)
    for _ in range(2):
        make_running(busy.pk)
    held = Worker.objects.with_jobs_held().values_list("pk", "jobs_held")
    assert dict(held) == {dead.pk: 0, busy.pk: 2, idle.pk: 0}
