from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest
from django.db import connection, transaction

from pgonly_django.worker import forked_child, lanes
from pgonly_django.worker.lanes import Lane
from tests.waiting import wait_for


@pytest.fixture
def opened():
    """What hanging calls wait for."""
    event = threading.Event()
    yield event
    event.set()
    wait_for(lambda: not threads(), what="the end of the threads")


@pytest.fixture
def lane(opened):
    """Make a lane: `lane(threads=2)`. It is closed at the test's end."""
    made = []

    def make(**options):
        made.append(Lane("tested", **options))
        return made[-1]

    yield make
    opened.set()
    for each in made:
        assert each.close(10)


def threads():
    return [each for each in threading.enumerate() if each.name == "tested"]


def test_calls_are_made_one_after_the_other_in_one_thread(lane):
    seen = []
    tested = lane()
    for number in range(50):
        tested.submit(lambda number=number: seen.append((number, threading.current_thread().name)))
    assert tested.close(10)
    assert seen == [(number, "tested") for number in range(50)]


def test_without_a_call_there_is_no_thread(lane):
    tested = lane()
    tested.rest()
    assert tested.close(0)
    assert threads() == []


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_a_call_raises_stands_on_stderr_and_ends_no_thread(lane, capfd, error):
    def fail():
        raise error("the project's")

    seen, tested = [], lane()
    tested.submit(fail)
    tested.submit(lambda: seen.append("next"))
    assert tested.close(10)
    assert seen == ["next"]
    assert "A call in the thread tested failed:\nTraceback" in capfd.readouterr().err


def test_a_call_that_hangs_is_named_once_and_the_next_ones_get_another_thread(lane, opened, monkeypatch):
    monkeypatch.setattr(lanes, "HANGS_SECONDS", 0.05)
    told, seen = [], []
    tested = lane(threads=2, tell_hang=lambda *hang: told.append(hang))
    tested.submit(lambda: opened.wait(30), "the first")
    tested.submit(lambda: seen.append("second"), "the second")
    wait_for(lambda: tested.run() or seen)
    assert told == [("the first", 1)]
    assert tested.due_at == lanes.NEVER
    opened.set()
    wait_for(lambda: len(threads()) == 1, what="the end of the thread whose call hung")
    tested.submit(lambda: seen.append("third"))
    wait_for(lambda: seen == ["second", "third"])
    assert len(told) == 1


def test_only_so_many_threads_hang(lane, opened, monkeypatch):
    monkeypatch.setattr(lanes, "HANGS_SECONDS", 0.02)
    told, begun = [], []
    tested = lane(threads=3, tell_hang=lambda _, stuck: told.append(stuck))
    for number in range(5):
        tested.submit(lambda number=number: begun.append(number) or opened.wait(30))
    wait_for(lambda: tested.run() or told == [1, 2, 3])
    wait_for(lambda: tested.due_at == lanes.NEVER)
    assert (len(threads()), tested.waiting) == (3, 2)
    opened.set()
    assert tested.close(10)
    assert begun == list(range(5)), "those that wait are called after all"


def test_a_call_that_runs_or_waits_is_going(lane, opened):
    tested = lane()
    assert not tested.is_going
    tested.submit(lambda: opened.wait(30))
    assert tested.is_going
    assert not tested.close(0.05)
    opened.set()
    assert tested.close(10)
    assert not tested.is_going


def test_what_is_submitted_while_a_call_hangs_at_the_end_waits_for_it(lane, opened):
    seen, tested = [], lane()
    say = lambda: seen.append(threading.current_thread().name)  # noqa: E731 - short
    tested.submit(lambda: opened.wait(30))
    assert not tested.close(0.05)
    tested.submit(say)
    assert seen == []
    opened.set()
    wait_for(lambda: seen == ["tested"])
    wait_for(lambda: not threads())
    tested.submit(say)
    assert seen[1:] == [threading.current_thread().name], "there is no thread any more"


def test_without_a_thread_the_calls_are_made_at_the_end(lane, monkeypatch):
    class NoThread(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(lanes, "threading", SimpleNamespace(**vars(threading) | {"Thread": NoThread}))
    seen, tested = [], lane()
    for number in range(3):
        tested.submit(lambda number=number: seen.append(number))
    assert seen == []
    assert tested.close(0)
    assert seen == [0, 1, 2]


def test_connections_are_put_in_order_after_a_call_and_closed_by_a_rest(lane, transactional_db, caplog):
    opened = []

    def leave_a_transaction_open():
        transaction.set_autocommit(False)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    def look():
        opened.append(connection.connection is not None)
        connection.ensure_connection()
        connection.close_at = None  # as with CONN_MAX_AGE = None

    tested = lane()
    tested.submit(leave_a_transaction_open, "a job")
    tested.submit(look)
    tested.submit(look)
    tested.rest()
    tested.submit(look)
    assert tested.close(10)
    assert opened == [False, True, False]
    assert "tested of a job left a transaction open" in caplog.text


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_process_that_a_call_forks_makes_no_further_call(lane, tmp_path):
    path, pids = tmp_path / "calls", []
    path.touch()

    def fork():
        pids.append(os.fork())

    def write():
        with path.open("a") as file:
            file.write("x")
        if pids == [0]:
            os._exit(1)

    tested = lane()
    with forked_child.as_worker({}):
        tested.submit(fork)
        tested.submit(write)
        assert tested.close(10)
        assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
    assert path.read_text() == "x"
