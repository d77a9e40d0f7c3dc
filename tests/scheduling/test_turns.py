from __future__ import annotations

import threading

import pytest

from pgonly_django.scheduling import due
from pgonly_django.scheduling.due import Turn
from tests.waiting import wait_for


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(due, "TURN_SECONDS", 0.05)


def test_a_turn_that_takes_long_is_in_hand_until_it_ends():
    called = threading.Event()
    with Turn("some", "nightly", called.set) as turn:
        assert called.wait(10)
        assert turn.is_long
        assert due.in_hand["some"] == {"nightly"}
    assert due.in_hand["some"] == set()


def test_a_turn_that_ends_in_time_calls_nobody():
    called = threading.Event()
    threads = threading.active_count()
    with Turn("some", "nightly", called.set) as turn:
        pass
    wait_for(lambda: threading.active_count() <= threads)
    assert not (turn.is_long or called.is_set() or due.in_hand["some"])


def test_what_is_late_by_a_moment_leaves_nothing_in_hand():
    turn = Turn("some", "nightly", lambda: None)
    with turn:
        pass
    turn._become_long()
    assert not turn.is_long
    assert due.in_hand["some"] == set()


def test_where_no_other_thread_can_go_on_a_turn_takes_any_time():
    threads = threading.active_count()
    with Turn("some", "nightly", None):
        assert threading.active_count() == threads
