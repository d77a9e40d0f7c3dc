"""Which waits may still be answered: those that a run of their job waits for, or comes to in its next run."""

from __future__ import annotations

import pytest

from pgonly_django.models import Job, State, Wait
from tests.queue.rows import make_waiting

pytestmark = pytest.mark.django_db


def answerable():
    return list(Wait.objects.answerable().values_list("key", flat=True))


@pytest.mark.parametrize("state", [State.READY, State.SCHEDULED, State.HELD])
def test_a_question_stays_when_a_run_has_failed_before_it_came_to_it(state):
    wait = make_waiting("asked")
    held_by = "a person" if state == State.HELD else None
    Job.objects.update(state=state, lease_epoch=2, held_by=held_by)
    assert answerable() == ["asked"]
    Wait.objects.create(job=wait.job, name="event other", key="other", lease_epoch=2)
    assert answerable() == ["other"]


def test_a_question_that_the_last_run_did_not_ask_is_not_asked_while_its_job_is_ready_again():
    wait = make_waiting("renamed")
    Job.objects.update(state=State.READY, lease_epoch=2)
    Wait.objects.create(job=wait.job, name="event new", key="new", lease_epoch=2)
    assert answerable() == ["new"]
