from __future__ import annotations

import pytest
from django.db import transaction

from pgonly_django.exceptions import LeaseLost
from pgonly_django.models import Checkpoint
from pgonly_django.models.checkpoint import Step
from pgonly_django.models.job import State
from pgonly_django.queue import checkpoints
from tests.queue.rows import make_running

pytestmark = pytest.mark.django_db


def save(job, value="1", positions="{}", lease_epoch=None):
    checkpoints.save_checkpoint("default", str(job.id), lease_epoch or job.lease_epoch, value, positions)


def test_a_checkpoint_is_read_as_it_was_saved_last():
    job = make_running()
    save(job, '{"page": 1}')
    save(job, '{"page": 2}', '{"items": 40}')
    assert checkpoints.load_checkpoint("default", str(job.id)) == checkpoints.Saved(
        '{"page": 2}', {"items": checkpoints.Position(40)}
    )


def test_a_job_without_a_checkpoint_begins_at_the_beginning():
    assert checkpoints.load_checkpoint("default", str(make_running().id)) == checkpoints.Saved("null", {})


@pytest.mark.parametrize(("facts", "lease"), [({"lease_epoch": 2}, 1), ({"state": State.READY}, 1)])
def test_a_run_that_lost_its_lease_saves_neither_checkpoint_nor_step(facts, lease):
    job = make_running(**facts)
    with pytest.raises(LeaseLost):
        save(job, lease_epoch=lease)
    with pytest.raises(LeaseLost):
        checkpoints.save_step("default", str(job.id), lease, "pay", "1")
    assert not Checkpoint.objects.exists()
    assert not Step.objects.exists()


def test_a_step_is_kept_once_and_the_first_result_stays():
    job = make_running()
    for result in ('"first"', '"second"'):
        checkpoints.save_step("default", str(job.id), job.lease_epoch, "ask", result)
    assert checkpoints.find_step("default", str(job.id), job.lease_epoch, "ask") == '"first"'


def test_steps_of_other_jobs_and_other_names_are_not_found():
    job, other = make_running(), make_running()
    checkpoints.save_step("default", str(job.id), job.lease_epoch, "ask", "null")
    assert checkpoints.find_step("default", str(job.id), job.lease_epoch, "ask") == "null"
    assert checkpoints.find_step("default", str(job.id), job.lease_epoch, "answer") is None
    assert checkpoints.find_step("default", str(other.id), other.lease_epoch, "ask") is None


def test_a_checkpoint_rolls_back_with_the_rows_it_describes():
    job = make_running()
    save(job, "1")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        save(job, "2")
        raise ZeroDivisionError
    assert checkpoints.load_checkpoint("default", str(job.id)).value == "1"


@pytest.mark.parametrize("facts", [{"lease_epoch": 2}, {"state": State.READY}])
def test_a_run_that_lost_its_lease_is_told_before_it_pays_for_a_step(facts):
    job = make_running(**facts)
    with pytest.raises(LeaseLost):
        checkpoints.find_step("default", str(job.id), 1, "ask")
