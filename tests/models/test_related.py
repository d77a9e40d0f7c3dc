"""What the verbs on jobs do to the jobs that these have gathered, at all levels, and to their steps and waits."""

from __future__ import annotations

import pytest
from django.db import connection

from pgonly_django.exceptions import ManualCommitError, WrongArgumentsError
from pgonly_django.models import Job, JobBatch, State, Wait
from pgonly_django.models.checkpoint import JobOutput, Step
from tests.queue.rows import HOUR, ago, fresh, make, make_running

pytestmark = pytest.mark.django_db


def gathered_by(parent: Job, *states: State, **facts) -> list[Job]:
    batch = JobBatch.objects.create(parent=parent, name="papers", size=len(states))
    facts = {"batch_id": batch.pk, "run_at": ago(-HOUR), **facts}
    return [(make_running if each == State.RUNNING else make)(state=each, **facts) for each in states]


def states_of(jobs: list[Job]) -> list[str]:
    return [fresh(each).state for each in jobs]


@pytest.fixture
def top():
    return make(state=State.SCHEDULED, run_at=ago(-HOUR))


@pytest.mark.parametrize("state", [State.SCHEDULED, State.HELD, State.RUNNING, State.FAILED])
@pytest.mark.parametrize("verb", ["cancel", "discard"])
def test_the_end_of_a_job_ends_what_it_has_gathered_at_all_levels(top, verb, state):
    (middle,) = gathered_by(top, state)
    done, ready, running = leaves = gathered_by(middle, State.SUCCEEDED, State.READY, State.RUNNING)
    (bystander,) = gathered_by(make(state=State.SCHEDULED, run_at=ago(-HOUR)), State.READY)
    assert getattr(Job.objects.filter(pk=top.pk), verb)() == 1
    assert fresh(top).is_finished
    assert fresh(middle).state == (state if state in (State.RUNNING, State.FAILED) else State.CANCELLED)
    assert states_of(leaves) == [State.SUCCEEDED, State.CANCELLED, State.RUNNING]
    assert fresh(running).cancel_requested_at is not None
    assert fresh(done).cancel_requested_at is None
    assert fresh(ready).finished_at is not None
    assert fresh(bystander).state == State.READY
    assert JobBatch.objects.filter(cancelled_at=None).count() == 1


def test_what_a_discarded_job_has_gathered_continues_if_you_say_so(top):
    members = gathered_by(top, State.READY, State.RUNNING)
    assert Job.objects.filter(pk=top.pk).discard(members="keep") == 1
    assert states_of(members) == [State.READY, State.RUNNING]
    assert fresh(top).errors[-1]["members"] == "keep"


def test_what_a_running_job_has_gathered_ends_only_where_it_was_asked_to():
    top = make_running()
    (member,) = gathered_by(top, State.READY)
    assert Job.objects.filter(pk=top.pk).discard() == 0
    assert fresh(member).state == State.READY
    assert Job.objects.filter(pk=top.pk).cancel() == 1
    assert fresh(member).state == State.CANCELLED


def test_jobs_that_are_ended_together_with_their_members_are_all_counted(top):
    gathered_by(top, State.READY, State.SUCCEEDED)
    assert Job.objects.cancel() == 2


NOT_GATHERED = {"outcome": "failed", "exception": "pgonly_django.exceptions.GatherError"}
IN_A_GROUP = {"outcome": "failed", "traceback": "  | pgonly_django.exceptions.GatherError: no result"}
OF_ITS_OWN = {"outcome": "failed", "exception": "builtins.ValueError"}


@pytest.mark.parametrize(
    ("state", "last", "are_needed"),
    [
        (State.CANCELLED, [], True),
        (State.FAILED, [OF_ITS_OWN, {"outcome": "discarded"}], True),
        (State.FAILED, [NOT_GATHERED], True),
        (State.SCHEDULED, [IN_A_GROUP], True),
        (State.FAILED, [NOT_GATHERED, OF_ITS_OWN], False),
        (State.SCHEDULED, [], False),
    ],
)
def test_a_retried_job_takes_the_failed_ones_along_that_it_needs_at_all_levels(state, last, are_needed):
    top = make(state=state, errors=last, run_at=ago(-HOUR))
    states = State.SUCCEEDED, State.FAILED, State.CANCELLED, State.HELD
    members = gathered_by(top, *states, errors=[NOT_GATHERED])
    (leaf,) = gathered_by(members[1], State.FAILED)
    JobBatch.objects.update(finished_at=ago(HOUR))
    assert Job.objects.filter(pk=top.pk).retry() == 1
    assert fresh(top).state == State.READY
    again = [State.SUCCEEDED, State.READY, State.READY, State.HELD]
    assert states_of(members) == (again if are_needed else [*states])
    assert fresh(leaf).state == (State.READY if are_needed else State.FAILED)
    assert JobBatch.objects.filter(finished_at=None).count() == (2 if are_needed else 0)


def test_a_retried_job_leaves_the_failed_ones_if_you_say_so():
    top = make(state=State.FAILED, errors=[NOT_GATHERED])
    members = gathered_by(top, State.FAILED, State.CANCELLED)
    assert Job.objects.filter(pk=top.pk).retry(members="keep") == 1
    assert states_of(members) == [State.FAILED, State.CANCELLED]


def test_jobs_that_are_retried_together_with_their_members_are_all_counted():
    gathered_by(make(state=State.CANCELLED), State.CANCELLED, State.FAILED)
    assert Job.objects.retry() == 3


def with_steps(*names: str, **facts) -> Job:
    job = make(**facts)
    for place, name in enumerate(names):
        Step.objects.create(job=job, name=name)
        JobOutput.objects.create(job=job, part=f"step {name}", place=place, start=0, text="said")
    Wait.objects.create(job=job, name="event b", key="b", lease_epoch=1)
    return job


def names_kept(job: Job) -> list[str]:
    parts = (part.removeprefix("step ") for part in job.outputs.values_list("part", flat=True))
    assert sorted(parts) == sorted(job.steps.values_list("name", flat=True))
    return sorted([*job.steps.values_list("name", flat=True), *job.waits.values_list("name", flat=True)])


def test_a_retry_forgets_the_steps_and_waits_that_it_names_of_jobs_that_it_retries():
    failed, other, running = (
        with_steps("ask", "event a", state=state) for state in (State.FAILED, State.FAILED, State.READY)
    )
    jobs = Job.objects.exclude(pk=other.pk)
    assert jobs.retry(forget=["event a", "event b"]) == 1
    assert names_kept(failed) == ["ask"]
    assert names_kept(other) == names_kept(running) == ["ask", "event a", "event b"]


@pytest.mark.parametrize(("names", "said"), [(["ask", "event x"], "'event x'"), ("ask", "must be a list")])
def test_a_name_that_no_job_has_is_refused_and_nothing_is_changed(names, said):
    job = with_steps("ask", state=State.FAILED)
    with pytest.raises(WrongArgumentsError, match=said):
        Job.objects.retry(forget=names)
    assert names_kept(job) == ["ask", "event b"]
    assert fresh(job).state == State.FAILED


def test_a_retry_that_finds_no_job_to_retry_forgets_nothing():
    job = with_steps("ask", state=State.SUCCEEDED)
    assert Job.objects.retry(forget=["ask"]) == 0
    assert names_kept(job) == ["ask", "event b"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("verb", ["cancel", "discard"])
def test_a_job_with_members_is_not_ended_without_autocommit(top, verb):
    gathered_by(top, State.READY)
    connection.set_autocommit(False)
    try:
        with pytest.raises(ManualCommitError):
            getattr(Job.objects.filter(pk=top.pk), verb)()
    finally:
        connection.rollback()
        connection.set_autocommit(True)
    assert not fresh(top).is_finished
