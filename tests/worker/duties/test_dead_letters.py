from __future__ import annotations

import re
import threading

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils import timezone

from pgonly_django import redrive
from pgonly_django.duties import Workplace
from pgonly_django.models import Job, State
from pgonly_django.tasks.failures import check_dead_letter_tasks, send_dead_letters
from pgonly_django.worker.housekeeper import Housekeeper
from tests.jobs import burying
from tests.limits.crowd import together
from tests.queue.rows import make
from tests.worker.rounds import a_round


@pytest.fixture(autouse=True)
def dead(settings, transactional_db):
    """`dead("path")`: the task that is told in the queue "dead"."""

    def told(path, **more):
        settings.PGONLY = {**settings.PGONLY, "QUEUES": {"dead": {"task": path}, **more}}

    told("tests.jobs.burying.note")
    return told


def failed(**facts):
    return make(
        **{"state": State.FAILED, "dead_letter_queue": "dead", "finished_at": timezone.now(), **facts}
    )


def letters():
    return [job.args for job in Job.objects.filter(queue="dead").order_by("pk")]


@pytest.mark.parametrize("how", ["error", "discard", "unstorable"])
def test_a_burst_sends_the_letters_of_its_failures_and_runs_them(ran, marks, how):
    result = ran(burying.fail, how)
    assert result.job.state == State.FAILED
    assert marks() == [result.id]
    assert result.job.dead_lettered_at is not None


@pytest.mark.parametrize("listen", [True, False])
def test_a_burst_runs_letters_one_at_a_time_where_their_task_wants_it(work, marks, dead, listen):
    dead("tests.jobs.burying.note_one_by_one")
    result = burying.fail.using(max_attempts=1).enqueue()
    work(listen=listen)
    assert marks() == [result.id]


def test_a_worker_without_a_free_job_waits_for_its_letters_before_it_leaves(work):
    result = burying.fail.using(max_attempts=1).enqueue()
    work(max_jobs=1, burst=False)
    assert letters() == [[result.id]]


def test_a_success_sends_none(ran, marks):
    ran(burying.fail, "succeed")
    assert marks() == []


def test_a_persons_discard_sends_one(marks):
    job = make(dead_letter_queue="dead")
    Job.objects.filter(pk=job.pk).discard()
    a_round(), a_round()
    assert letters() == [[str(job.pk)]]


def test_a_retry_that_fails_again_sends_another(run_jobs, marks):
    result = burying.fail.enqueue()
    run_jobs()
    result.retry()
    assert result.job.dead_lettered_at is None
    run_jobs()
    assert marks() == [result.id, result.id]


@pytest.mark.parametrize("again", [Job.objects.retry, lambda: redrive(Job.objects.all()).jobs])
def test_a_job_that_is_retried_before_its_letter_was_sent_needs_none_until_it_fails_again(again):
    job = failed()
    assert again() == 1
    a_round()
    assert letters() == []
    Job.objects.filter(pk=job.pk).discard()
    a_round(), a_round()
    assert letters() == [[str(job.pk)]]


def test_a_letter_whose_own_job_fails_sends_no_further_one(ran, marks, dead, settings):
    dead("tests.jobs.burying.note_badly")
    settings.TASKS = {
        "default": {**settings.TASKS["default"], "OPTIONS": {"dead_letter_queue": "dead"}},
    }
    result = ran(burying.fail)
    letter = Job.objects.get(queue="dead")
    assert (letter.state, letter.dead_letter_queue, letter.args) == (State.FAILED, None, [result.id])
    assert marks() == [result.id, result.id], "its two attempts"
    a_round()
    assert Job.objects.count() == 2


def test_workers_that_send_at_once_send_each_letter_once():
    jobs = [failed() for _ in range(300)]
    barrier = threading.Barrier(4)

    def send_all():
        barrier.wait(10)
        while send_dead_letters("default", "dead", 20):
            pass
        connections.close_all()

    together(4, send_all)
    assert sorted(args[0] for args in letters()) == sorted(str(job.pk) for job in jobs)


def test_what_is_killed_before_the_commit_has_sent_nothing(other):
    job = failed()
    pid = []

    class KilledError(Exception):
        pass

    def kill(*_):
        pid.append(connections["default"].connection.info.backend_pid)
        other.execute("SELECT pg_terminate_backend(%s, 2000)", pid)
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pgonly_django.queue.failed_jobs.mark_sent", kill)
        with pytest.raises(KilledError):
            send_dead_letters("default", "dead", 10)
    connections["default"].close()
    assert letters() == []
    assert send_dead_letters("default", "dead", 10) == 1
    assert letters() == [[str(job.pk)]]


def test_a_letter_waits_for_a_row_that_is_locked(other):
    job = failed()
    with other.transaction():
        other.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [job.pk])
        assert send_dead_letters("default", "dead", 10) == 0
    assert send_dead_letters("default", "dead", 10) == 1


def test_a_queue_whose_task_is_broken_keeps_no_other_from_its_letters(dead, caplog):
    dead("tests.jobs.no_such_task", grave={"task": "tests.jobs.burying.note"})
    failed()
    good = failed(dead_letter_queue="grave")
    a_round()
    (letter,) = Job.objects.filter(queue="grave")
    assert letter.args == [str(good.pk)]
    assert "no_such_task" in caplog.text
    dead("tests.jobs.burying.note")
    a_round()
    assert len(letters()) == 1, "once its task is there"


def test_letters_of_a_queue_that_no_setting_names_wait_and_are_warned_about_once(dead, settings, caplog):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {}}
    failed()
    thread = Housekeeper(Workplace("default"))
    thread.run_once()
    thread.run_once()
    warned = [record for record in caplog.records if record.event == "queue.dead_letters_unsent"]
    assert ['PGONLY["QUEUES"][\'dead\'] has no "task"' in record.message for record in warned] == [True]


def test_a_queue_without_a_task_is_refused_where_the_job_is_enqueued(settings):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"deaf": {"task": "tests.jobs.burying.note"}}}
    with pytest.raises(
        ImproperlyConfigured, match=r"dead_letter_queue='dead' needs .*: did you mean 'deaf'\?"
    ):
        burying.fail.using(max_attempts=3).enqueue()
    assert Job.objects.count() == 0


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("tests.jobs.no_such_task", r"\['dead'\]\[.task.\] cannot be imported: ImportError"),
        ("tests.exits_when_imported.task", "cannot be imported: SystemExit"),
        ("tests.jobs.burying.no_task", "must be the dotted path of a task, got .*, a function"),
        ("tests.jobs.burying.takes_nothing", "must take one argument, the id of the failed job"),
        (3, "3 doesn.t look like a module path"),
    ],
)
def test_a_task_that_cannot_be_told_is_an_error_of_the_checks(dead, path, says):
    dead(path)
    (error,) = check_dead_letter_tasks()
    assert error.id == "pgonly_django.E010"
    assert re.search(says, error.msg), error.msg
    dead("tests.jobs.burying.note")
    assert check_dead_letter_tasks() == []
