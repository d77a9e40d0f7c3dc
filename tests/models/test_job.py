"""The verbs that people use on jobs: which state allows which, and what each changes."""

from __future__ import annotations

import threading
from datetime import timedelta

import psycopg
import pytest
from django.db import transaction

from pgonly_django.models import Checkpoint, Job, JobBatch, Worker
from pgonly_django.models.checkpoint import Step
from pgonly_django.models.job import (
    CANCELLABLE,
    DISCARDABLE,
    HOLDABLE,
    RESUMABLE,
    RETRYABLE,
    STARTABLE,
    State,
)
from pgonly_django.models.job_rows import ERRORS_KEPT
from pgonly_django.outcomes import Outcome
from pgonly_django.tables import table
from pgonly_django.tasks.options import NAME_LENGTH, PATH_LENGTH, TaskOptions
from pgonly_django.worker import options
from tests.queue.rows import (
    HOUR,
    MINUTE,
    ago,
    finish_of,
    fresh,
    make,
    make_running,
    wait_until_blocked,
    write,
)

pytestmark = pytest.mark.django_db


def in_state(state: State) -> Job:
    return make_running(state=state, run_at=ago(-HOUR), retention=HOUR)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    ("verb", "allowed", "afterwards"),
    [
        ("retry", RETRYABLE, State.READY),
        ("cancel", CANCELLABLE, State.CANCELLED),
        ("discard", DISCARDABLE, State.FAILED),
        ("hold", HOLDABLE, State.HELD),
        ("resume", RESUMABLE, State.SCHEDULED),
        ("run_now", STARTABLE, State.READY),
    ],
)
def test_a_verb_moves_jobs_of_the_allowed_states_only(state, verb, allowed, afterwards):
    job, bystander = in_state(state), in_state(state)
    count = getattr(Job.objects.filter(pk=job.pk), verb)()
    if state not in allowed:
        assert (count, fresh(job).state) == (0, state)
    elif (verb, state) == ("cancel", State.RUNNING):
        assert (count, fresh(job).state) == (1, State.RUNNING)
    else:
        assert (count, fresh(job).state) == (1, afterwards)
    assert fresh(bystander).state == state


def test_a_retried_job_has_all_its_attempts_and_resumes_where_it_stood():
    job = in_state(State.FAILED)
    Job.objects.update(attempt=4, crashes=3, finished_at=ago(HOUR), delete_after=ago(-HOUR), ready_at=ago(HOUR),
                       errors=[{"outcome": "failed"}], cancel_requested_at=ago(HOUR))  # fmt: skip
    Checkpoint.objects.create(job=job, value=7)
    Step.objects.create(job=job, name="ask")
    Job.objects.retry()
    row = fresh(job)
    assert (row.attempt, row.crashes, row.finished_at, row.delete_after) == (0, 0, None, None)
    assert (row.cancel_requested_at, row.checkpoint.value, row.steps.count()) == (None, 7, 1)
    assert row.ready_at > ago(MINUTE)
    assert row.errors == [{"outcome": "failed"}]


def test_a_job_that_runs_now_keeps_what_it_has_used_up():
    facts = {
        "attempt": 2,
        "crashes": 2,
        "unique_key": "x",
        "errors": [{"outcome": "failed"}],
        "ready_at": ago(HOUR),
    }
    job = make(state=State.SCHEDULED, run_at=ago(-HOUR), **facts)
    assert Job.objects.run_now() == 1
    row = fresh(job)
    assert (row.state, row.attempt, row.crashes, row.unique_key) == (State.READY, 2, 2, "x")
    assert row.errors == job.errors
    assert row.ready_at > ago(MINUTE)


def test_a_waiting_job_is_cancelled_at_once_with_its_pruning_time():
    job = make(retention=HOUR)
    Job.objects.cancel()
    row = fresh(job)
    assert row.finished_at > ago(MINUTE)
    assert HOUR - MINUTE < row.delete_after - row.finished_at < HOUR + MINUTE


def test_a_running_job_is_asked_to_stop_and_goes_on_until_it_does():
    job = make_running(retention=HOUR)
    Job.objects.cancel()
    row = fresh(job)
    assert row.cancel_requested_at > ago(MINUTE)
    assert (row.finished_at, row.delete_after, row.lease_epoch) == (None, None, job.lease_epoch)


@pytest.mark.parametrize("verb", ["cancel", "discard", "retry"])
def test_a_selection_that_locks_its_rows_is_taken_too(verb):
    """With a batch, whose id is read with DISTINCT, for which PostgreSQL locks nothing."""
    batch = JobBatch.objects.create(callbacks={})
    job = make(batch_id=batch.pk, state=State.FAILED if verb == "retry" else State.READY)
    with transaction.atomic():
        assert getattr(Job.objects.select_for_update(skip_locked=True).filter(pk=job.pk), verb)() == 1


def test_a_discarded_job_says_why():
    job = make(errors=[{"outcome": "failed"}])
    Job.objects.discard('No longer wanted: 5 % \\ "quoted".')
    assert [error["outcome"] for error in fresh(job).errors] == ["failed", "discarded"]
    assert fresh(job).errors[-1]["reason"] == 'No longer wanted: 5 % \\ "quoted".'
    assert fresh(job).is_finished


def test_a_held_job_says_why_and_by_what():
    job, other = make(), make()
    Job.objects.filter(pk=job.pk).hold("The provider is down.", by="provider:x")
    assert fresh(job).errors[-1]["reason"] == "The provider is down."
    assert list(Job.objects.held("provider:x")) == [job]
    Job.objects.filter(pk=other.pk).hold()
    assert fresh(other).held_by == "a person"
    assert Job.objects.held().count() == 2


def test_a_job_can_be_held_again_and_again():
    job = make(errors=[{"outcome": "failed"}] * ERRORS_KEPT)
    for _ in range(2 * ERRORS_KEPT):
        assert Job.objects.hold() == Job.objects.resume() == 1
    assert len(fresh(job).errors) == ERRORS_KEPT


@pytest.mark.parametrize(
    ("facts", "afterwards", "keeps_its_time"),
    [
        ({}, State.READY, True),
        ({"run_at": ago(HOUR)}, State.READY, True),
        ({"run_at": ago(-HOUR), "state": State.SCHEDULED}, State.SCHEDULED, True),
        ({"run_at": ago(-HOUR)}, State.READY, False),  # retry() has made it ready before its time
    ],
)
def test_a_resumed_job_waits_for_what_it_waited_for(facts, afterwards, keeps_its_time):
    job = make(attempt=2, crashes=1, **facts)
    Job.objects.hold()
    Job.objects.resume()
    row = fresh(job)
    assert (row.state, row.held_by, row.attempt, row.crashes) == (afterwards, None, 2, 1)
    assert row.run_at == (facts.get("run_at") if keeps_its_time else None)
    assert row.ready_at > ago(MINUTE)


@pytest.mark.parametrize(
    ("verb", "state"), [("resume", State.HELD), ("run_now", State.SCHEDULED), ("retry", State.FAILED)]
)
def test_a_job_that_has_begun_keeps_its_place_unless_it_is_tried_again_from_the_start(verb, state):
    begun = make(state=state, run_at=ago(HOUR), ready_at=ago(2 * HOUR), attempted_at=ago(HOUR))
    never_begun = make(state=state, run_at=ago(HOUR), ready_at=ago(2 * HOUR))
    getattr(Job.objects.all(), verb)()
    assert (fresh(begun).ready_at == begun.ready_at) is (verb != "retry")
    assert fresh(never_begun).ready_at > ago(MINUTE)
    assert all(fresh(job).waiting_since > ago(MINUTE) for job in (begun, never_begun))


@pytest.mark.parametrize("verb", ["retry", "cancel", "discard"])
def test_nothing_holds_a_job_that_a_person_has_moved_on(verb):
    job = make()
    Job.objects.hold()
    getattr(Job.objects.all(), verb)()
    assert fresh(job).held_by is None
    assert not Job.objects.held().exists()


@pytest.mark.parametrize("reason", ["a\x00b", "half \udc80 of a pair", 7, "x" * 100_000])
def test_any_reason_can_be_given(reason):
    job = make()
    assert Job.objects.discard(reason) == 1
    assert 0 < len(fresh(job).errors[-1]["reason"]) <= 2000


@pytest.mark.parametrize(
    ("state", "outcomes", "seconds"),
    [
        (State.FAILED, ["failed", "failed"], 2),
        (State.FAILED, ["failed", "discarded"], 1),
        (State.SCHEDULED, ["snoozed", "postponed"], 1),
        (State.READY, ["released"], 1),
        (State.CANCELLED, [], None),
    ],
)
def test_the_latest_run_ends_where_its_entry_says(state, outcomes, seconds):
    began = ago(HOUR)
    job = make(state=state, attempted_at=began, finished_at=ago(MINUTE), run_at=began, errors=[
        {"outcome": outcome, "finished_at": (began + timedelta(seconds=place)).isoformat()}
        | ({} if outcome == "discarded" else {"started_at": began.isoformat()})
        for place, outcome in enumerate(outcomes, start=1)
    ])  # fmt: skip
    assert fresh(job).run_seconds == seconds


def test_a_run_in_progress_and_a_successful_one_are_measured_by_the_row():
    assert make().run_seconds is None
    assert make_running(attempted_at=ago(HOUR)).run_seconds >= 3600
    done = make(state=State.SUCCEEDED, attempted_at=ago(HOUR), finished_at=ago(HOUR - MINUTE))
    assert 59 < done.run_seconds < 61


def test_a_job_cancelled_while_its_release_is_under_way_ends_cancelled(server, other):
    """The release holds the row; the cancel waits for it and judges the newest row."""
    job = make_running()
    with server.transaction():
        write(server, finish_of(job, Outcome.RELEASED, State.READY, costs_attempt=False))
        cancelling = threading.Thread(target=cancel_in_its_own_connection)
        cancelling.start()
        wait_until_blocked(other)
    cancelling.join(timeout=10)
    assert fresh(job).state == State.CANCELLED


def test_a_job_released_after_its_cancellation_ends_cancelled(server):
    job = make_running()
    Job.objects.cancel()
    write(server, finish_of(job, Outcome.RELEASED, State.READY, costs_attempt=False))
    assert fresh(job).state == State.CANCELLED


def cancel_in_its_own_connection():
    from django.db import connection

    try:
        Job.objects.cancel()
    finally:
        connection.close()


def test_what_may_be_named_fits_its_column():
    """The limits stand in modules that are imported before there are models."""
    limits = {"backend": NAME_LENGTH, "queue": NAME_LENGTH, "task": PATH_LENGTH}
    assert {name: Job._meta.get_field(name).max_length for name in limits} == limits
    assert Worker._meta.get_field("name").max_length == options.NAME_LENGTH
    assert Job._meta.get_field("max_attempts").default == TaskOptions().max_attempts


@pytest.mark.parametrize(
    ("column", "value"), [("run_at", "infinity"), ("delete_after", "infinity"), ("run_at", "10000-01-01")]
)
def test_a_time_that_would_break_a_list_is_refused_by_the_table(server, column, value):
    make()
    with pytest.raises(psycopg.errors.CheckViolation):
        server.execute(f"UPDATE {table('pgonly_job')} SET {column} = %s", [value])
