"""The jobs of a dead process go back, whatever happens to those who do it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from uuid import UUID

import pytest

from pgonly_django.compat import new_ids
from pgonly_django.database import wake_urls
from pgonly_django.database.connect import connect
from pgonly_django.models import Job, JobStats
from pgonly_django.models.job import State
from pgonly_django.worker.supervisor import taking_back as module
from pgonly_django.worker.supervisor.process import reap
from pgonly_django.worker.supervisor.taking_back import Dead, TakingBack
from tests.http_receiver import receiver
from tests.queue.rows import fresh, lock, make_running, make_worker
from tests.waiting import wait_for


@pytest.fixture(params=["fork", "spawn"], ids=["in a process", "in a thread"])
def method(request):
    return request.param


@pytest.fixture
def taking(transactional_db):
    """Makes one, and lets it turn until a condition holds."""
    made = []

    def make(method="fork"):
        made.append(TakingBack("default", method, lambda: None))
        return made[-1]

    yield make
    for each in made:
        wait_for(lambda each=each: not turn(each) or each._try is None, what="the last try")
        each.close()


def turn(taking_back):
    taking_back.turn(time.monotonic())
    taking_back.pids -= reap(list(taking_back.pids), all_of_them=False).keys()
    return not taking_back.is_over


def dead(worker, *, planned=False):
    return Dead(str(worker.id), worker.name, planned, time.monotonic())


def over(taking_back):
    wait_for(lambda: not turn(taking_back), what="the jobs to go back")


def test_the_jobs_of_several_are_taken_back_each_as_its_death_was(taking, method, caplog):
    crashed, stopped = make_worker(name="a"), make_worker(name="b")
    jobs = make_running(crashed.id), make_running(crashed.id), make_running(stopped.id)
    taking_back = taking(method)
    taking_back.add(dead(crashed))
    taking_back.add(dead(stopped, planned=True))
    with caplog.at_level("INFO", "pgonly_django"):
        over(taking_back)
    assert [(fresh(job).state, fresh(job).crashes) for job in jobs] == [
        ("ready", 1),
        ("ready", 1),
        ("ready", 0),
    ]
    assert "2 job(s) of a were taken back" in caplog.text
    assert "1 job(s) of b were taken back" in caplog.text
    assert f"{jobs[0].task} {jobs[0].id} of the dead worker a is ready (crashes: 1)." in caplog.text
    of_hours = JobStats.objects.filter(granularity="hour")
    assert sum(row.crashed for row in of_hours) == 2
    assert sum(row.interrupted for row in of_hours) == 1


def test_other_workers_are_notified(taking):
    worker = make_worker()
    make_running(worker.id, queue="ai")
    with connect("default", application_name="a listener") as listener:
        listener.execute("LISTEN pgonly_jobs")
        taking_back = taking()
        taking_back.add(dead(worker))
        over(taking_back)
        heard = {notify.payload for notify in listener.notifies(timeout=5, stop_after=2)}
    assert heard == {"ready ai", "limited *"}


def test_workers_that_sleep_are_woken_before_the_supervisor_ends(taking, method, settings):
    worker = make_worker()
    make_running(worker.id)
    with receiver() as sleeping:
        settings.PGONLY = {**settings.PGONLY, "WAKE_URLS": [sleeping.url]}
        taking_back = taking(method)
        taking_back.add(dead(worker))
        over(taking_back)
        taking_back.close()
        wake_urls.flush()  # as at the end of the supervisor's process
        assert [asked.target for asked in sleeping.asked] == ["/wake"]


def test_what_a_failed_job_leaves_to_be_done_is_handed_on(taking):
    worker = make_worker()
    job = make_running(worker.id, crashes=2)
    taking_back = taking()
    taking_back.add(dead(worker))
    over(taking_back)
    assert fresh(job).state == State.FAILED
    assert taking_back.payloads == [f"rescued-finished {job.id}", f"rescued-failed {job.id}"]


def test_while_the_database_is_away_it_is_tried_again_and_said_once(taking, method, monkeypatch, caplog):
    worker = make_worker(name="a")
    job = make_running(worker.id)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.1)

    def refuse(*_, **__):
        raise OSError("no route to host")

    taking_back = taking(method)
    with monkeypatch.context() as patch:
        patch.setattr(module, "connect", refuse)
        taking_back.add(dead(worker))
        tries = set()
        wait_for(lambda: turn(taking_back) and (tries.add(taking_back._next_try) or len(tries) >= 4))
        wait_for(lambda: turn(taking_back) and taking_back._try is None)
    assert caplog.text.count("The jobs of a cannot be taken back, trying again: no route to host") == 1
    over(taking_back)
    assert fresh(job).state == State.READY


def test_a_job_whose_row_is_locked_is_taken_back_when_the_lock_goes(taking):
    worker, other_worker = make_worker(name="a"), make_worker(name="b")
    locked, free = make_running(worker.id), make_running(other_worker.id)
    taking_back = taking()
    with connect("default", application_name="a person's") as person, person.transaction():
        lock(person, locked)
        taking_back.add(dead(worker))
        taking_back.add(dead(other_worker))
        wait_for(lambda: turn(taking_back) and fresh(free).state == State.READY)
        wait_for(lambda: turn(taking_back) and taking_back.names == ["a"])
        assert fresh(locked).state == State.RUNNING
    over(taking_back)
    assert (fresh(locked).state, fresh(locked).crashes) == (State.READY, 1)


def test_one_who_is_killed_meanwhile_is_followed_by_another(taking, monkeypatch, caplog):
    worker = make_worker(name="a")
    job = make_running(worker.id)
    taking_back = taking()
    with monkeypatch.context() as patch:
        patch.setattr(module, "take_back", lambda *_: time.sleep(60))
        taking_back.add(dead(worker))
        turn(taking_back)
        (pid,) = taking_back.pids
    os.kill(pid, signal.SIGKILL)
    over(taking_back)
    assert fresh(job).state == State.READY
    assert "the process that was to do it ended" in caplog.text


def test_one_who_takes_too_long_is_killed_and_followed_by_another(taking, monkeypatch):
    """A name that does not resolve, a server that takes connections and never answers."""
    worker = make_worker(name="a")
    job = make_running(worker.id)
    taking_back = taking()
    monkeypatch.setattr(module, "TRY_SECONDS", 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(module, "take_back", lambda *_: time.sleep(60))
        taking_back.add(dead(worker))
        turn(taking_back)
        (pid,) = taking_back.pids
        wait_for(lambda: turn(taking_back) and taking_back._try is None)
    monkeypatch.setattr(module, "TRY_SECONDS", 20.0)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        wait_for(lambda: turn(taking_back) or pid not in taking_back.pids)
    over(taking_back)
    assert fresh(job).state == State.READY


def test_the_answer_has_room_for_thousands_of_jobs(taking):
    worker = make_worker()
    first = make_running(worker.id)
    columns = {
        each.attname: getattr(first, each.attname) for each in Job._meta.concrete_fields if each.name != "id"
    }
    jobs = Job.objects.bulk_create([Job(id=UUID(job_id), **columns) for job_id in new_ids(2500)])
    taking_back = taking()
    taking_back.add(dead(worker))
    over(taking_back)
    assert {fresh(job).state for job in (jobs[0], jobs[-1])} == {State.READY}
