"""The verbs on jobs that have gathered others: what becomes of those, at all levels."""

from __future__ import annotations

import pytest

from pgonly_django.models import Job, JobBatch, State
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
