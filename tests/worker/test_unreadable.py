"""Rows that this Python cannot read, and values that an older one could not: each harms its own job only."""

from __future__ import annotations

import sys

import pytest
from django.db import connection
from django.db.models import JSONField

from pgonly_django.exceptions import UnreadableJobError
from pgonly_django.models import Job, State
from pgonly_django.queue.claim import ClaimedJob
from pgonly_django.queue.values import NESTING_LIMIT
from tests import jobs
from tests.jobs import ending, unstorable

# More digits than any Python makes a number of; more levels than 3.11 and 3.12 can read, and 3.13 could enqueue.
UNREADABLE = {"digits": "('[1' || repeat('0', 5000) || ']')::jsonb"}
if sys.version_info < (3, 13):
    UNREADABLE["levels"] = "(repeat('[', 2000) || repeat(']', 2000))::jsonb"


def spoil(result, column, kind):
    """Put JSON into the row that PostgreSQL holds and Python does not load."""
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE pgonly_job SET {column} = {UNREADABLE[kind]} WHERE id = %s", [result.id])


def end_of(result):
    """State, attempts used and the last entry of the errors: without loading what cannot be loaded."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT state, attempt, errors -> -1 ->> 'exception', errors -> -1 ->> 'message' "
            "FROM pgonly_job WHERE id = %s",
            [result.id],
        )
        return cursor.fetchone()


COLUMNS = [
    field.name
    for field in Job._meta.concrete_fields
    if isinstance(field, JSONField) and field.name in ClaimedJob._fields
]
CASES = [
    *((jobs.add, column, "digits") for column in COLUMNS),
    (jobs.add_async, "args", "levels"),
    (jobs.add, "options", "levels"),
]


@pytest.mark.parametrize(("task", "column", "kind"), [case for case in CASES if case[2] in UNREADABLE])
def test_a_row_that_cannot_be_read_fails_alone(work, task, column, kind):
    bad = task.enqueue(1, 1)
    spoil(bad, column, kind)
    good = [jobs.add.enqueue(i) for i in range(10)]
    work()
    assert [result.wait(1).return_value for result in good] == list(range(1, 11))
    state, attempt, error, message = end_of(bad)
    assert (state, attempt, error.rpartition(".")[2]) == (State.FAILED, 1, UnreadableJobError.__name__)
    assert message.startswith(f"The {column} of this job cannot be loaded: ")


def test_the_deepest_arguments_that_can_be_enqueued_run_and_come_back(ran):
    value = jobs.nest(NESTING_LIMIT - 1)
    result = ran(jobs.echo, value)
    assert result.wait(1).return_value == value


@pytest.mark.parametrize(
    ("task", "what"),
    [
        (unstorable.return_nested, "The return value of tests.jobs.unstorable.return_nested"),
        (unstorable.step_nested, "The result of step 'nest'"),
        (unstorable.save_nested, "The checkpoint"),
        (unstorable.report_nested, "The progress"),
    ],
)
def test_a_value_nested_too_deeply_fails_only_its_own_job(run_jobs, task, what):
    bad = task.enqueue(NESTING_LIMIT + 1)
    good = [jobs.add.enqueue(i) for i in range(10)]
    run_jobs()
    assert [result.wait(1).return_value for result in good] == list(range(1, 11))
    assert bad.job.state == State.FAILED
    assert bad.job.errors[-1]["message"].startswith(
        f"{what} cannot be stored as JSON: it is nested too deeply, more than 500 levels."
    )


def test_progress_that_is_no_json_fails_only_its_own_job(run_jobs):
    bad, good = unstorable.report_an_object.enqueue(), jobs.add.enqueue(1)
    run_jobs()
    assert good.wait(1).return_value == 2
    assert bad.job.state == State.FAILED
    assert "The progress cannot be stored" in bad.job.errors[-1]["message"]


@pytest.mark.parametrize("retention", ["3000000 days", "300000 years"])
def test_a_retention_no_date_can_hold_keeps_the_job_and_delays_no_other(run_jobs, retention):
    bad, good = jobs.add.enqueue(1), [jobs.add.enqueue(i) for i in range(5)]
    failing = jobs.fail.enqueue()
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pgonly_job SET retention = %s::interval WHERE id = ANY(%s::uuid[])",
            [retention, [bad.id, failing.id]],
        )
    run_jobs()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT state, delete_after FROM pgonly_job WHERE retention > interval '1 year' ORDER BY state"
        )
        assert cursor.fetchall() == [("failed", None), ("succeeded", None)]
    assert [result.wait(1).return_value for result in good] == [1, 2, 3, 4, 5]


def test_a_delay_no_date_can_hold_is_cut(ran):
    job = ran(ending.snooze_for_ages).job
    assert job.state == State.SCHEDULED
    assert job.run_at.year < 2200
