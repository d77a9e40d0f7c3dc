from __future__ import annotations

import logging
import sys
import threading
import time

import pytest

from pgonly_django.database.background import Background
from pgonly_django.exceptions import CacheUnavailableError
from tests.waiting import wait_for


def test_a_background_job_that_fails_keeps_no_other_from_being_done(caplog):
    done = threading.Event()
    background = Background("cache")
    background.add(lambda: 1 / 0, 10)
    background.add(done.set, 10)
    assert done.wait(10)
    assert "ZeroDivisionError" in caplog.text


def test_a_filter_of_the_project_that_raises_does_not_end_the_thread(monkeypatch):
    def refuse(record):
        raise SystemExit

    logger = logging.getLogger("pgonly_django.cache")
    monkeypatch.setattr(logger, "filters", [refuse])
    background, done = Background("cache"), threading.Event()
    with background._lock:
        background.add(lambda: 1 / 0, 10)
        background.add(lambda: sys.exit(1), 10)
        background.add(done.set, 10)
    assert done.wait(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # its end is the point
def test_a_thread_that_has_ended_is_replaced(monkeypatch):
    """Whatever ended it."""
    done, background = threading.Event(), Background("cache")
    with monkeypatch.context() as hostile:
        hostile.setattr(background, "_try", lambda *_: 1 / 0)
        background.add(done.set, 10)
        wait_for(lambda: not background._thread.is_alive())
    background.add(done.set, 10)
    assert done.wait(10)


@pytest.fixture
def undoing(monkeypatch):
    """What undo() does with a statement that PostgreSQL does only later."""
    monkeypatch.setattr("pgonly_django.database.background.RETRY_SECONDS", 0.05)
    monkeypatch.setattr("pgonly_django.database.background.UNCONFIRMED_SECONDS", 2.0)

    def undo(*answers):
        looks, left = [], iter(answers)

        def look():
            looks.append(time.monotonic())
            answer = next(left, answers[-1])
            return answer() if callable(answer) else answer

        background = Background("cache")
        background.undo(look)
        wait_for(lambda: background._thread is None, what="its end")
        return looks

    return undo


def test_what_is_there_is_undone_once(undoing):
    assert len(undoing(True)) == 1


def test_what_comes_later_is_undone_when_it_has_come(undoing):
    assert len(undoing(False, False, True)) == 3


@pytest.mark.slow
def test_the_time_in_which_it_may_come_begins_with_the_first_answer(undoing):
    """A server that stands still reads what it was sent before when it goes on."""
    back_at = time.monotonic() + 2.5

    def answer():
        if time.monotonic() < back_at:
            raise CacheUnavailableError("away")
        return False

    looks = undoing(answer)
    assert looks[-1] >= back_at + 1.5
