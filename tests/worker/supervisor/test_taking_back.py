"""The jobs of a dead process go back, whatever keeps them from it at first."""

from __future__ import annotations

import threading
import time

import pytest

from pgonly_django.database import wake_urls
from pgonly_django.database.connect import connect
from pgonly_django.models import JobStats
from pgonly_django.models.job import State
from pgonly_django.worker.inbox import Notification
from pgonly_django.worker.supervisor import taking_back as module
from pgonly_django.worker.supervisor.taking_back import Dead, TakingBack
from tests.http_receiver import receiver
from tests.queue.rows import fresh, lock, make_running, make_worker
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


def dead(worker, *, planned=False):
    return Dead(worker.id, worker.name, planned, time.monotonic())


def taking(*workers, **facts):
    taking_back = TakingBack("default")
    for worker in workers:
        taking_back.add(dead(worker, **facts))
    return taking_back


def turn_until(taking_back, condition, what="the jobs to go back"):
    def turn():
        taking_back.turn(time.monotonic())
        return condition()

    wait_for(turn, what=what)


def over(taking_back):
    turn_until(taking_back, lambda: taking_back.is_over)
    wait_for(lambda: taking_back.next_turn(0.0) == module.NEVER, what="the end of its thread")


def test_the_jobs_of_several_are_taken_back_each_as_its_death_was(caplog):
    crashed, stopped = make_worker(name="a"), make_worker(name="b")
    jobs = make_running(crashed.id), make_running(crashed.id), make_running(stopped.id)
    taking_back = taking(crashed)
    taking_back.add(dead(stopped, planned=True))
    with caplog.at_level("INFO", "pgonly_django"):
        over(taking_back)
    states = [(fresh(job).state, fresh(job).crashes) for job in jobs]
    assert states == [("ready", 1), ("ready", 1), ("ready", 0)]
    assert "2 job(s) of a were taken back" in caplog.text
    assert "1 job(s) of b were taken back" in caplog.text
    assert f"{jobs[0].task} {jobs[0].id} of the dead worker a is ready (crashes: 1)." in caplog.text
    of_hours = JobStats.objects.filter(granularity="hour")
    assert sum(row.crashed for row in of_hours) == 2
    assert sum(row.interrupted for row in of_hours) == 1


def test_all_workers_hear_of_it_and_one_is_to_be_told():
    worker = make_worker()
    make_running(worker.id, queue="ai")
    taking_back = taking(worker)
    with connect("default", application_name="a listener") as listener:
        listener.execute("LISTEN pgonly_jobs")
        over(taking_back)
        heard = {notify.payload for notify in listener.notifies(timeout=5, stop_after=2)}
    assert heard == {f"{each.kind} {each.name}" for each in taking_back.told} == {"ready ai", "limited *"}


def test_workers_that_sleep_are_woken_before_the_thread_ends(settings):
    worker = make_worker()
    make_running(worker.id)
    with receiver() as sleeping:
        settings.PGONLY = {**settings.PGONLY, "WAKE_URLS": [sleeping.url]}
        over(taking(worker))
        assert [asked.target for asked in sleeping.asked] == ["/wake"]
        wake_urls.flush()


def test_what_a_failed_job_leaves_to_be_done_is_for_one_that_lives():
    worker = make_worker()
    job = make_running(worker.id, crashes=2)
    taking_back = taking(worker)
    over(taking_back)
    assert fresh(job).state == State.FAILED
    assert [*taking_back.told] == [Notification("rescued-failed", str(job.id)), Notification("limited", "*")]


def test_while_the_database_is_away_it_is_tried_again_and_that_is_said_once(monkeypatch, caplog):
    worker, tries = make_worker(name="a"), []
    job = make_running(worker.id)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.1)

    def refuse(*_, **__):
        tries.append(1)
        raise OSError("no route to host")

    taking_back = taking(worker)
    with monkeypatch.context() as patch:
        patch.setattr(module, "connect", refuse)
        turn_until(taking_back, lambda: len(tries) >= 3, "three tries")
    assert caplog.text.count("The jobs of a cannot be taken back, trying again: no route to host") == 1
    over(taking_back)
    assert fresh(job).state == State.READY


def test_a_job_whose_row_is_locked_is_taken_back_when_the_lock_goes():
    worker, other_worker = make_worker(name="a"), make_worker(name="b")
    locked, free = make_running(worker.id), make_running(other_worker.id)
    taking_back = taking(worker, other_worker)
    with connect("default", application_name="a person's") as person, person.transaction():
        lock(person, locked)
        turn_until(taking_back, lambda: taking_back.names == ["a"])
        assert (fresh(locked).state, fresh(free).state) == (State.RUNNING, State.READY)
    over(taking_back)
    assert (fresh(locked).state, fresh(locked).crashes) == (State.READY, 1)


def test_no_process_is_forked_beside_its_thread_unless_that_hangs(monkeypatch):
    """A lock that the thread holds would stay locked in the child."""
    taking_back, is_there = taking(make_worker()), threading.Event()
    monkeypatch.setattr(module, "connect", lambda *_, **__: is_there.wait(20) and 1 / 0)
    began = time.monotonic()
    assert not taking_back.keeps_from_forking(began)
    taking_back.turn(began)
    assert taking_back.keeps_from_forking(began)
    assert taking_back.next_turn(began) < began + 0.1  # the supervisor does not spin until it is over
    assert not taking_back.keeps_from_forking(began + module.NO_FORK_SECONDS)
    is_there.set()
    wait_for(lambda: not taking_back.keeps_from_forking(began))


def test_a_system_that_starts_no_more_threads_is_asked_again_later(monkeypatch):
    worker = make_worker()
    job, taking_back = make_running(worker.id), taking(worker)

    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        taking_back.turn(time.monotonic())
    assert taking_back.names == [worker.name]
    over(taking_back)
    assert fresh(job).state == State.READY
