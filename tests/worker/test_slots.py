from __future__ import annotations

from django.db import transaction

from pgonly_django.models import Job, State
from tests import jobs
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
