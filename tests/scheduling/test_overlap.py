from __future__ import annotations

import pytest

from pgonly_django.models import Job, Schedule, State
from tests.queue.rows import make as make_job
from tests.queue.rows import make_running
from tests.scheduling.rows import HOUR, fresh, jobs, look, make, ticks

pytestmark = pytest.mark.django_db(transaction=True)


def after_a_run(state, **columns):
    """A schedule whose last tick has a job in this state, and which is due again."""
    schedule = make(**columns)
    look()
    (job,) = jobs()
    facts = {"worker_id": job.id, "lease_expires_at": job.enqueued_at} if state == State.RUNNING else {}
    Job.objects.filter(pk=job.pk).update(state=state, **facts)
    Schedule.objects.filter(pk=schedule.pk).update(next_at=schedule.next_at + HOUR / 10**7)
    return schedule, job


@pytest.mark.parametrize("state", [State.READY, State.SCHEDULED, State.RUNNING, State.HELD])
def test_a_tick_is_skipped_while_the_last_run_is_unfinished(state):
    schedule, _ = after_a_run(state)
    look()
    assert len(jobs()) == 1
    _, skipped = ticks(schedule)
    assert (skipped.outcome, skipped.job_id) == ("skipped", None)
    assert skipped.reason == f"An earlier run is {State(state).label.lower()}."
    assert fresh(schedule).last_tick_at == skipped.tick_at


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_finished_run_lets_the_next_one_begin(state):
    after_a_run(state)
    look()
    assert len(jobs()) == 2


def test_a_pruned_run_is_finished():
    _, job = after_a_run(State.SUCCEEDED)
    job.delete()
    look()
    assert len(jobs()) == 1


@pytest.mark.parametrize("state", [State.READY, State.RUNNING, State.HELD])
def test_allowed_runs_stand_side_by_side(state):
    after_a_run(state, overlap="allow")
    look()
    assert len(jobs()) == 2


@pytest.mark.parametrize(
    ("state", "then"),
    [(State.READY, State.CANCELLED), (State.SCHEDULED, State.CANCELLED), (State.HELD, State.CANCELLED)],
)
def test_a_waiting_run_is_replaced(state, then):
    _, job = after_a_run(state, overlap="replace")
    look()
    first, second = jobs()
    assert (first.id, first.state, second.state) == (job.id, then, State.READY)


def test_a_running_run_is_asked_to_stop_when_it_is_replaced():
    after_a_run(State.RUNNING, overlap="replace")
    look()
    first, second = jobs()
    assert first.state == State.RUNNING
    assert first.cancel_requested_at is not None
    assert second.state == State.READY


def test_jobs_of_the_same_task_that_no_schedule_made_do_not_count():
    make_job(task="tests.jobs.add", args=[1])
    make_running(task="tests.jobs.add", args=[1])
    make()
    look()
    assert len(jobs()) == 3
