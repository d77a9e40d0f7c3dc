from __future__ import annotations

from django.db import connections, transaction

from pgonly_django.models import Job, State
from pgonly_django.worker import django_connections
from tests import activity, jobs
from tests.gate import GATE
from tests.waiting import wait_for


def test_a_task_that_is_long_to_import_holds_up_no_cancel_and_no_other_job(background_worker, marks):
    background_worker(threads=3)
    running = jobs.hold_on.enqueue("k")
    wait_for(lambda: "k:started" in marks())
    with transaction.atomic():
        late = [jobs.add.enqueue(1) for _ in range(2)]
        for result, name in zip(late, ("add_late", "add_late_async"), strict=True):
            Job.objects.filter(pk=result.id).update(task=f"tests.waits_when_imported.{name}")
    try:
        assert GATE.reached.wait(10)
        running.cancel()
        assert running.wait(10).job.state == State.CANCELLED
        assert jobs.add.enqueue(5).wait(10).return_value == 6
        assert {result.job.state for result in late} == {State.RUNNING}
    finally:
        GATE.opened.set()
    assert [result.wait(10).return_value for result in late] == [2, 2]


def test_a_slot_without_work_closes_what_conn_max_age_keeps_open(background_worker, monkeypatch):
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)
    monkeypatch.setattr(django_connections, "KEEP_OPEN_SECONDS", 0.5)
    before = len(activity.pids())
    background_worker(poll_seconds=600.0)
    results = [jobs.slow_count.enqueue(2, 0.0, f"k{number}") for number in range(4)]
    for result in results:
        result.wait(10)
    # What is left is the worker's own: of its main loop, and of its heartbeats.
    wait_for(lambda: len(activity.pids()) <= before + 2, what="the connections of the jobs to be closed")
    assert jobs.slow_count.enqueue(1, 0.0, "k").wait(10).return_value == 1
