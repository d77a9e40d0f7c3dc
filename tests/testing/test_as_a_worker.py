"""drain() against a worker: the same jobs end in the same way, with the same rows."""

from __future__ import annotations

import pytest
from django.core.cache import caches
from django.core.management import call_command
from django.db import transaction

from pgonly_django.models import Checkpoint, Event, Job, Step
from pgonly_django.testing import drain
from tests.jobs import read_marks
from tests.jobs.compared_contexts import CASES
from tests.sql import sql

# What ends with a transaction or a session of PostgreSQL, and no savepoint ends. docs/how-to/testing.md says so.
OTHERS_IN_A_TESTCASE = {
    "looks_at_locks_of_its_transaction",
    "looks_at_what_a_session_left",
    "looks_at_the_time_of_its_transactions",
}


def outcomes(run):
    """What each job has left after `run()`, by its name; and the marks of all."""
    sql("DELETE FROM tests_mark")
    caches["answers"].clear()
    Job.objects.all().delete()
    Event.objects.all().delete()
    for each in CASES:
        each.enqueue()
    run()
    rows = Job.objects.order_by("pk")
    found = {f"{job.task.rpartition('.')[2]} {job.args}": left_by(job) for job in rows}
    return found | {"marks": sorted(read_marks())}  # async jobs run beside the others


def left_by(job):
    errors = [(each["outcome"], each.get("exception"), each.get("message")) for each in job.errors]
    saved = Checkpoint.objects.filter(job_id=job.pk).values_list("value", "positions")
    return {
        "state": job.state,
        "result": job.result,
        "attempt": job.attempt,
        "errors": errors,
        "waits": job.run_at is not None,
        "held_by": job.held_by,
        "progress": job.progress and {name: job.progress[name] for name in ("done", "total", "message")},
        "log": [line["text"] for line in job.log],
        "steps": sorted(Step.objects.filter(job_id=job.pk).values_list("name", "result")),
        "saved": list(saved),
    }


@pytest.mark.process
def test_jobs_end_in_a_drain_as_with_a_worker(transactional_db):
    worker = outcomes(lambda: call_command("runworker", burst=True, threads=1))
    committed = outcomes(lambda: drain(raise_errors=False))
    testcase = transaction.atomic()
    testcase._from_testcase = True  # as Django's TestCase does
    with testcase:
        in_transaction = outcomes(lambda: drain(raise_errors=False))
        transaction.set_rollback(True)
    assert len(CASES) >= 49
    assert differences(worker, committed) == {}
    assert differences(worker, in_transaction).keys() == {f"{name} []" for name in OTHERS_IN_A_TESTCASE}


def differences(worker, drained):
    assert worker.keys() == drained.keys()
    return {name: (left, drained[name]) for name, left in worker.items() if left != drained[name]}
