from __future__ import annotations

import pytest
from django.db import transaction

from pgonly_django.exceptions import LeaseLost
from pgonly_django.models import Checkpoint
from pgonly_django.models.checkpoint import Step
from pgonly_django.models.job import State
from pgonly_django.queue import memo
from tests.queue.rows import make_running

pytestmark = pytest.mark.django_db


def save(job, value="1", positions="{}", lease=None):
    memo.save_checkpoint("default", str(job.id), lease or job.lease, value, positions)


def test_a_checkpoint_is_read_as_it_was_saved_last():
    job = make_running()
    save(job, '{"page": 1}')
    save(job, '{"page": 2}', '{"items": 40}')
    assert memo.load_checkpoint("default", str(job.id)) == memo.Saved('{"page": 2}', {"items": 40})


def test_a_job_without_a_checkpoint_begins_at_the_beginning():
    assert memo.load_checkpoint("default", str(make_running().id)) == memo.Saved("null", {})


@pytest.mark.parametrize(("facts", "lease"), [({"lease": 2}, 1), ({"state": State.READY}, 1)])
def test_a_run_that_lost_its_lease_saves_neither_checkpoint_nor_step(facts, lease):
    job = make_running(**facts)
    with pytest.raises(LeaseLost):
        save(job, lease=lease)
    with pytest.raises(LeaseLost):
        memo.save_step("default", str(job.id), lease, "pay", "1")
    assert not Checkpoint.objects.exists()
    assert not Step.objects.exists()


def test_a_step_is_kept_once_and_the_first_result_stays():
    job = make_running()
    for result in ('"first"', '"second"'):
        memo.save_step("default", str(job.id), job.lease, "ask", result)
    assert memo.find_step("default", str(job.id), job.lease, "ask") == '"first"'


def test_steps_of_other_jobs_and_other_names_are_not_found():
    job, other = make_running(), make_running()
    memo.save_step("default", str(job.id), job.lease, "ask", "null")
    assert memo.find_step("default", str(job.id), job.lease, "ask") == "null"
    assert memo.find_step("default", str(job.id), job.lease, "answer") is None
    assert memo.find_step("default", str(other.id), other.lease, "ask") is None


def test_a_checkpoint_rolls_back_with_the_rows_it_describes():
    job = make_running()
    save(job, "1")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        save(job, "2")
        raise ZeroDivisionError
    assert memo.load_checkpoint("default", str(job.id)).value == "1"


@pytest.mark.parametrize("facts", [{"lease": 2}, {"state": State.READY}])
def test_a_run_that_lost_its_lease_is_told_before_it_pays_for_a_step(facts):
    job = make_running(**facts)
    with pytest.raises(LeaseLost):
        memo.find_step("default", str(job.id), 1, "ask")
