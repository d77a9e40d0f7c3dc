"""The jobs of a dead process go back, whatever happens to those that are asked to do it."""

from __future__ import annotations

import time
from collections import deque

import pytest

from pgonly_django.database import wake_urls
from pgonly_django.database.connect import connect
from pgonly_django.models import JobStats
from pgonly_django.models.job import State
from pgonly_django.worker.inbox import Notification
from pgonly_django.worker.supervisor import taking_back as module
from pgonly_django.worker.supervisor.taking_back import Dead, TakingBack, ThisProcess, take_back
from tests.http_receiver import receiver
from tests.queue.rows import fresh, lock, make_running, make_worker
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


class Sibling:
    """A living process that answers at once, unless it is mute."""

    def __init__(self, name="sibling", *, is_mute=False):
        self.name, self.is_mute = name, is_mute
        self.answers = deque()
        self.told = []
        self.asked = 0

    def ask(self, message):
        self.asked += 1
        if not self.is_mute:
            self.answers.append(take_back("default", message["take_back"], "a sibling", self.told.append))


def dead(worker, *, planned=False):
    return Dead(str(worker.id), worker.name, planned, time.monotonic())


def taking(*workers, **facts):
    taking_back = TakingBack()
    for worker in workers:
        taking_back.add(dead(worker, **facts))
    return taking_back


def over(taking_back, *living):
    def turn():
        taking_back.turn(time.monotonic(), living)
        return taking_back.is_over

    wait_for(turn, what="the jobs to go back")


def test_the_jobs_of_several_are_taken_back_each_as_its_death_was(caplog):
    crashed, stopped = make_worker(name="a"), make_worker(name="b")
    jobs = make_running(crashed.id), make_running(crashed.id), make_running(stopped.id)
    taking_back = taking(crashed)
    taking_back.add(dead(stopped, planned=True))
    with caplog.at_level("INFO", "pgonly_django"):
        over(taking_back, Sibling())
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


def test_all_workers_hear_of_it_also_the_one_that_was_asked():
    worker, sibling = make_worker(), Sibling()
    make_running(worker.id, queue="ai")
    with connect("default", application_name="a listener") as listener:
        listener.execute("LISTEN pgonly_jobs")
        over(taking(worker), sibling)
        heard = {notify.payload for notify in listener.notifies(timeout=5, stop_after=2)}
    assert heard == {f"{each.kind} {each.name}" for each in sibling.told} == {"ready ai", "limited *"}


def test_workers_that_sleep_are_woken(settings):
    worker = make_worker()
    make_running(worker.id)
    with receiver() as sleeping:
        settings.PGONLY = {**settings.PGONLY, "WAKE_URLS": [sleeping.url]}
        over(taking(worker), Sibling())
        wake_urls.flush()  # as at the end of each process
        assert [asked.target for asked in sleeping.asked] == ["/wake"]


def test_what_a_failed_job_leaves_to_be_done_is_left_to_the_one_that_was_asked():
    worker, sibling = make_worker(), Sibling()
    job = make_running(worker.id, crashes=2)
    over(taking(worker), sibling)
    assert fresh(job).state == State.FAILED
    assert sibling.told == [Notification("rescued-failed", str(job.id)), Notification("limited", "*")]


def test_while_the_database_is_away_each_is_asked_in_turn_and_it_is_said_once(monkeypatch, caplog):
    worker = make_worker(name="a")
    job = make_running(worker.id)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.1)

    def refuse(*_, **__):
        raise OSError("no route to host")

    taking_back, siblings = taking(worker), (Sibling(), Sibling())
    with monkeypatch.context() as patch:
        patch.setattr(module, "connect", refuse)
        wait_for(
            lambda: taking_back.turn(time.monotonic(), siblings) or min(each.asked for each in siblings) >= 2
        )
    assert caplog.text.count("The jobs of a cannot be taken back, trying again: no route to host") == 1
    over(taking_back, *siblings)
    assert fresh(job).state == State.READY


def test_a_job_whose_row_is_locked_is_taken_back_when_the_lock_goes():
    worker, other_worker = make_worker(name="a"), make_worker(name="b")
    locked, free = make_running(worker.id), make_running(other_worker.id)
    taking_back, sibling = taking(worker, other_worker), Sibling()
    with connect("default", application_name="a person's") as person, person.transaction():
        lock(person, locked)
        wait_for(lambda: taking_back.turn(time.monotonic(), [sibling]) or taking_back.names == ["a"])
        assert (fresh(locked).state, fresh(free).state) == (State.RUNNING, State.READY)
    over(taking_back, sibling)
    assert (fresh(locked).state, fresh(locked).crashes) == (State.READY, 1)


def test_where_one_does_not_answer_another_one_is_asked(monkeypatch, caplog):
    """It is frozen, or its connect hangs."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    worker, mute = make_worker(name="a"), Sibling("mute", is_mute=True)
    job = make_running(worker.id)
    over(taking(worker), mute, Sibling())
    assert fresh(job).state == State.READY
    assert "The jobs of a cannot be taken back, trying again: mute does not answer" in caplog.text


def test_where_one_ends_before_its_answer_another_one_is_asked_at_once(caplog):
    worker, mute, sibling = make_worker(name="a"), Sibling("mute", is_mute=True), Sibling()
    job = make_running(worker.id)
    taking_back = taking(worker)
    taking_back.turn(time.monotonic(), [mute])
    taking_back.turn(time.monotonic(), [sibling])
    taking_back.turn(time.monotonic(), [sibling])
    assert (mute.asked, sibling.asked, taking_back.is_over) == (1, 1, True)
    assert fresh(job).state == State.READY
    assert "cannot be taken back" not in caplog.text


def test_an_answer_that_comes_late_counts(monkeypatch):
    worker, slow = make_worker(), Sibling(is_mute=True)
    taking_back = taking(worker)
    taking_back.turn(time.monotonic(), [slow])
    slow.answers.append({"taken_back": [str(worker.id), "unknown"], "error": ""})
    taking_back.turn(time.monotonic() + module.ANSWER_SECONDS, [slow])
    assert taking_back.is_over


def test_where_none_lives_the_next_one_that_starts_is_asked():
    worker = make_worker()
    job = make_running(worker.id)
    taking_back = taking(worker)
    taking_back.turn(time.monotonic(), [])
    assert taking_back.next_turn(time.monotonic()) > 0.1  # until it starts the supervisor does not spin
    over(taking_back, Sibling())
    assert fresh(job).state == State.READY


def test_at_its_end_the_supervisor_does_it_by_itself():
    worker, woken = make_worker(), []
    job = make_running(worker.id)
    over(taking(worker, planned=True), ThisProcess("default", lambda: woken.append(1)))
    assert (fresh(job).state, fresh(job).crashes, woken) == (State.READY, 0, [1])
