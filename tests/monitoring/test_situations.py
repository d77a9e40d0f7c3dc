"""What the state of a job means to people."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django import send_event
from pgonly_django.models import Job, State
from pgonly_django.monitoring.situations import SITUATION, SITUATIONS, read_situation, situation_named
from pgonly_django.outcomes import Outcome
from tests.admin.conftest import make_job
from tests.queue.rows import make_gathering, make_waiting

pytestmark = pytest.mark.django_db


def scheduled(outcome=None, **columns):
    """A job for later, after a run that ended so."""
    errors = [] if outcome is None else [{"outcome": outcome.value, "attempt": 1}]
    return make_job(State.SCHEDULED, attempt=len(errors), errors=errors, **columns)


def found(job):
    """The name of the situation, which each way to ask must tell alike."""
    listed = Job.objects.annotate(situation=SITUATION).get(pk=job.pk)
    names = [name for name, each in SITUATIONS.items() if Job.objects.filter(each.rows, pk=job.pk).exists()]
    assert names == [situation_named(listed).name], "each job is in one situation"
    assert read_situation(job) == listed.situation
    return names[0]


@pytest.mark.parametrize("state", State.values)
def test_a_state_is_a_situation(state):
    assert found(make_job(state)) == state


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CRASHED, Outcome.RETRIED])
def test_a_job_whose_run_failed_is_retried(outcome):
    assert found(scheduled(outcome)) == "retrying"


@pytest.mark.parametrize("outcome", [None, Outcome.SNOOZED, Outcome.POSTPONED, Outcome.HELD])
def test_a_job_that_waits_for_its_time_is_scheduled(outcome):
    assert found(scheduled(outcome)) == "scheduled"


def test_a_job_that_sleeps_is_scheduled_also_after_a_run_that_failed():
    wait = make_waiting(None, until=timezone.now() + timedelta(hours=1))
    wait.job.errors = [{"outcome": "failed", "attempt": 1}]
    wait.job.save()
    assert found(wait.job) == "scheduled"


def test_what_a_job_waits_for_is_its_situation():
    assert found(make_waiting("a", question="Include?").job) == "asks-person"
    assert found(make_waiting("b", choices=["yes"]).job) == "asks-person"
    assert found(make_waiting("c").job) == "waits-event"
    assert found(make_gathering(ready=1).parent) == "waits-jobs"


def test_a_person_comes_before_an_event_and_an_event_before_jobs():
    parent = make_gathering(ready=1).parent
    columns = {"lease_epoch": 1, "began_at": timezone.now()}
    parent.waits.create(name="event paid", key="paid", **columns)
    assert found(parent) == "waits-event"
    parent.waits.create(name="event ask", key="ask", question="Send it?", **columns)
    assert found(parent) == "asks-person"


def test_a_job_whose_wait_is_answered_is_about_to_run():
    wait = make_waiting("approve:1", question="Include?")
    send_event("approve:1", "yes")
    assert found(wait.job) == "scheduled"


def test_a_wait_of_an_earlier_run_says_nothing():
    wait = make_waiting("approve:1")
    Job.objects.filter(pk=wait.job_id).update(lease_epoch=2)
    assert found(wait.job) == "scheduled"


def test_a_job_that_is_gone_has_no_situation():
    job = scheduled(Outcome.FAILED)
    Job.objects.all().delete()
    assert read_situation(job) == ""
