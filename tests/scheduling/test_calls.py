from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections

from pgonly_django.models import Job, Queue, Schedule, State
from pgonly_django.scheduling.calls import run_now
from pgonly_django.scheduling.due import REPLACING_SECONDS
from pgonly_django.tables import qualified
from tests import activity
from tests.queue.rows import make as make_job
from tests.queue.rows import make_running
from tests.scheduling import tasks
from tests.scheduling.rows import HOUR, clock, fresh, jobs, look, make, ticks
from tests.waiting import wait_for

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


def test_the_jobs_of_a_schedule_name_it():
    schedule = make()
    look()
    run_now(Schedule.objects.all())
    assert {job.enqueued_by for job in jobs()} == {f"schedule:{schedule.name}"}
    assert len(jobs()) == 2


def test_a_pruned_run_is_finished():
    _, job = after_a_run(State.SUCCEEDED)
    job.delete()
    look()
    assert len(jobs()) == 1


def test_allowed_runs_stand_side_by_side():
    after_a_run(State.RUNNING, overlap="allow")
    look()
    assert len(jobs()) == 2


@pytest.mark.parametrize("state", [State.READY, State.SCHEDULED, State.HELD])
def test_a_waiting_run_is_replaced(state):
    _, job = after_a_run(state, overlap="replace")
    look()
    first, second = jobs()
    assert (first.id, first.state, second.state) == (job.id, State.CANCELLED, State.READY)


def test_a_running_run_is_asked_to_stop_when_it_is_replaced():
    after_a_run(State.RUNNING, overlap="replace")
    look()
    first, second = jobs()
    assert first.state == State.RUNNING
    assert first.cancel_requested_at is not None
    assert second.state == State.READY


def again(schedule):
    """Its next tick is due."""
    Schedule.objects.filter(pk=schedule.pk).update(next_at=clock())


UNIQUE = {"task": "tests.scheduling.tasks.unique", "args": [1]}


@pytest.mark.parametrize("overlap", ["skip", "replace"])
def test_the_unique_job_of_another_call_is_no_run_of_the_schedule(overlap):
    persons = tasks.unique.enqueue(1)
    schedule = make(overlap=overlap, **UNIQUE)
    look()
    again(schedule)
    look()
    assert [(str(job.id), job.state) for job in jobs()] == [(persons.id, State.READY)]
    said = f"The job {persons.id} has its unique key."
    assert [(tick.outcome, tick.job_id, tick.reason) for tick in ticks(schedule)] == [
        ("skipped", None, said)
    ] * 2


def test_nor_is_one_that_a_person_meets_who_runs_the_schedule_now():
    persons = tasks.unique.enqueue(1)
    schedule = make(overlap="replace", **UNIQUE)
    run_now(Schedule.objects.all())
    (tick,) = ticks(schedule)
    assert (tick.outcome, tick.job_id, tick.by_person) == ("skipped", None, True)
    look()
    assert persons.job.state == State.READY


def test_a_tick_waits_for_the_end_of_the_unique_run_that_it_replaces():
    schedule, first = after_a_run(State.RUNNING, overlap="replace", **UNIQUE)
    assert 0 < look() <= REPLACING_SECONDS
    (asked,) = jobs()
    assert asked.cancel_requested_at is not None
    assert len(ticks(schedule)) == 1
    assert fresh(schedule).next_at < clock()
    look()
    assert jobs()[0].cancel_requested_at == asked.cancel_requested_at, "it is asked once"
    Job.objects.filter(pk=first.pk).update(state=State.CANCELLED)
    look()
    _, second = jobs()
    assert (second.state, second.run_at) == (State.READY, ticks(schedule)[-1].tick_at)


def test_one_that_is_being_deleted_is_not_run_now(other, server):
    make()

    def run_in_thread():
        try:
            return run_now(Schedule.objects.all())
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        with other.transaction():
            other.execute(qualified("DELETE FROM pgonly_schedule"))
            count = thread.submit(run_in_thread)
            wait_for(lambda: activity.pids("wait_event_type = 'Lock' AND query LIKE '%pgonly_%'", server))
        assert count.result() == 0
    assert jobs() == []


def test_jobs_of_the_same_task_that_no_schedule_made_do_not_count():
    make_job(task="tests.jobs.add", args=[1])
    make_running(task="tests.jobs.add", args=[1])
    make()
    look()
    assert len(jobs()) == 3


@pytest.fixture
def paused_queue():
    Queue.objects.named("default").pause()


@pytest.mark.parametrize("overlap", ["skip", "allow", "replace"])
def test_a_paused_queue_holds_one_job_of_a_schedule_which_runs_after_the_pause(paused_queue, overlap):
    schedule = make(overlap=overlap)
    for _ in range(3):
        look()
        Schedule.objects.update(next_at=clock())
    waiting = [job for job in jobs() if job.state == State.READY]
    assert len(waiting) == 1
    if overlap == "replace":
        assert waiting[0].run_at == ticks(schedule)[-1].tick_at
    else:
        assert {tick.reason for tick in ticks(schedule)[1:]} == {"The queue default is paused."}
    Queue.objects.named("default").resume()
    Job.objects.update(state=State.SUCCEEDED)
    Schedule.objects.update(next_at=clock())
    look()
    assert len([job for job in jobs() if job.state == State.READY]) == 1


def test_all_missed_ticks_of_a_paused_queue_are_one_job(paused_queue):
    make(overlap="allow", catch_up="all", every_seconds=60.0, next_at=clock() - HOUR)
    look()
    assert len(jobs()) == 1


def test_with_catch_up_none_a_paused_queue_gets_no_job(paused_queue):
    schedule = make(catch_up="none", overlap="allow")
    look()
    assert jobs() == []
    assert [tick.reason for tick in ticks(schedule)] == ["The queue default is paused."]


def test_the_pause_of_another_queue_does_not_matter(paused_queue):
    make(catch_up="none", queue="ai")
    look()
    assert len(jobs()) == 1


def test_an_exception_that_is_no_error_keeps_no_other_schedule_from_ticking():
    make("hostile", task="tests.scheduling.tasks.interrupts", args=[], next_at=clock() - HOUR)
    make("sound")
    look()
    assert [job.args for job in jobs()] == [[1]]
    assert "KeyboardInterrupt" in fresh(Schedule(name="hostile")).problem
