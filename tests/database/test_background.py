from __future__ import annotations

import logging
import threading

import pytest

from pgonly_django.database.background import Background
from tests.waiting import wait_for


class Hostile(logging.Filter):
    def filter(self, record):
        raise SystemExit


@pytest.fixture
def hostile_logging():
    logger, hostile = logging.getLogger("pgonly_django.cache"), Hostile()
    logger.addFilter(hostile)
    yield
    logger.removeFilter(hostile)


def raises(error):
    raise error


def test_a_background_job_that_fails_keeps_no_other_from_being_done(caplog):
    done = threading.Event()
    background = Background("cache")
    background.add(lambda: 1 / 0, 10)
    background.add(done.set, 10)
    assert done.wait(10)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_neither_does_one_that_exits_nor_a_logging_that_does(error, hostile_logging):
    background, both_added, done = Background("cache"), threading.Event(), threading.Event()
    background.add(lambda: both_added.wait(10) and raises(error), 10)
    background.add(done.set, 10)
    both_added.set()
    assert done.wait(10)
    wait_for(lambda: background._thread is None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # its end is the point
def test_a_thread_that_has_ended_is_replaced(monkeypatch):
    """Whatever ended it."""
    done, background = threading.Event(), Background("cache")
    with monkeypatch.context() as hostile:
        hostile.setattr(background, "_try", lambda *_: raises(MemoryError))
        background.add(done.set, 10)
        wait_for(lambda: not background._thread.is_alive())
    background.add(done.set, 10)
    assert done.wait(10)
