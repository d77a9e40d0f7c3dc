"""Where autocommit is off, no on_commit() hook tells of the caller's own commit: refused before anything is written."""

from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction

from pgonly_django import enqueue_many
from pgonly_django.exceptions import ManualCommitError
from pgonly_django.models import Checkpoint, Job, JobBatch
from pgonly_django.models.checkpoint import Step
from pgonly_django.models.job import State
from pgonly_django.queue import checkpoints
from tests.aliases import alias
from tests.queue.rows import make, make_running
from tests.tasks.calls import add

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def manual():
    """The caller commits by itself."""
    transaction.set_autocommit(False)
    yield
    transaction.rollback()
    transaction.set_autocommit(True)


def committed(model):
    transaction.commit()
    return model.objects.count()


@pytest.mark.parametrize("enqueue", [lambda: add.enqueue(1), lambda: enqueue_many([(add, [1])])])
def test_an_enqueue_is_refused_before_its_insert(manual, enqueue):
    with pytest.raises(ManualCommitError, match=r"off for 'default'.*transaction\.atomic\(\)"):
        enqueue()
    assert committed(Job) == 0


def test_the_caller_s_transaction_stays_usable(manual):
    make()
    with pytest.raises(ManualCommitError):
        add.enqueue(1)
    make()
    assert committed(Job) == 2


def test_an_alias_that_never_commits_by_itself_is_told_apart_before_it_connects(settings):
    with alias("manual", AUTOCOMMIT=False):
        options = {"database": "manual"}
        settings.TASKS = {"default": {**settings.TASKS["default"], "OPTIONS": options}}
        with pytest.raises(ManualCommitError, match="off for 'manual'"):
            add.enqueue(1)


def test_inside_atomic_it_is_as_everywhere(manual):
    with transaction.atomic():
        add.enqueue(1)
    assert committed(Job) == 1


@pytest.mark.parametrize("verb", ["retry", "cancel"])
def test_a_verb_is_refused_before_its_update(manual, verb):
    job = make(state=State.FAILED if verb == "retry" else State.READY)
    with pytest.raises(ManualCommitError):
        getattr(Job.objects, verb)()
    assert committed(Job) == 1
    assert Job.objects.get().state == job.state


def test_a_discard_wakes_nobody_and_is_part_of_the_caller_s_commit(manual):
    make(batch_id=JobBatch.objects.create().pk)
    Job.objects.discard()
    assert committed(Job) == 1
    assert Job.objects.get().state == State.FAILED


def test_a_step_is_refused_before_its_call_and_a_checkpoint_before_its_write(manual):
    job = make_running()
    facts = ("default", str(job.pk), job.lease_epoch)
    with pytest.raises(ManualCommitError, match=r"step\(\) needs"):
        checkpoints.find_step(*facts, "paid")
    with pytest.raises(ManualCommitError, match="save_checkpoint"):
        checkpoints.save_checkpoint(*facts, "1", "{}")
    assert (committed(Checkpoint), committed(Step)) == (0, 0)


def test_a_worker_does_not_start_where_jobs_would_lose_what_they_write():
    with alias("manual", AUTOCOMMIT=False), pytest.raises(CommandError, match="has AUTOCOMMIT = False"):
        call_command("runworker", "--burst", database="manual")
