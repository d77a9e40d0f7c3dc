from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from pgonly_django.worker.status import own_rss_mb, resident_bytes
from pgonly_django.worker.supervisor import processes
from pgonly_django.worker.supervisor.channel import Channel
from pgonly_django.worker.supervisor.processes import (
    CHILD_VARIABLE,
    as_child,
    fork,
    forks,
    has_other_threads,
    memory_of,
)
from tests.waiting import wait_for


def test_a_process_with_another_thread_is_not_forked_unless_it_is_wanted(monkeypatch):
    """A lock that the thread holds would stay locked in the child."""
    monkeypatch.setattr(processes, "FORK_IS_SAFE_HERE", True)
    monkeypatch.setattr(processes, "has_other_threads", lambda: False)
    assert forks("auto")
    monkeypatch.undo()
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert has_other_threads()
        assert (forks("auto"), forks("fork"), forks("spawn")) == (False, True, False)
    finally:
        over.set()
        thread.join()


def ended(process):
    process.channel.close()
    return os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])


@pytest.mark.parametrize(
    ("error", "code"), [(None, 0), (SystemExit(7), 7), (SystemExit("no"), 1), (KeyError(1), 1)]
)
def test_a_forked_child_ends_where_it_would_come_back(error, code, capfd):
    def live(child):
        if error is not None:
            raise error

    assert ended(fork("w", None, live)) == code
    assert ("KeyError" in capfd.readouterr().err) == isinstance(error, KeyError)


def test_stop_signals_are_held_back_in_a_child_until_it_has_its_handlers():
    def live(child):
        os.kill(os.getpid(), signal.SIGTERM)  # pending
        signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
        processes.let_stop_signals_through()

    assert ended(fork("w", None, live)) == 9
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(processes.STOP_SIGNALS)


def test_a_forked_child_knows_its_name_and_its_end_and_tells_over_its_channel():
    process = fork(
        "w-1", 7.0, lambda child: child.channel.send({"name": child.name, "ends_at": child.ends_at})
    )
    wait_for(lambda: process.channel.receive() == [{"name": "w-1", "ends_at": 7.0}])
    assert ended(process) == 0


def test_a_spawned_child_finds_its_channel_in_the_environment_and_hands_nothing_on(monkeypatch):
    ours, theirs = Channel.pair()
    number = os.dup(theirs.fileno())
    monkeypatch.setenv(CHILD_VARIABLE, json.dumps({"fd": number, "name": "w-2", "ends_at": None}))
    child = as_child()
    assert (child.name, child.ends_at) == ("w-2", None)
    child.channel.send({"hello": 1})
    assert ours.receive() == [{"hello": 1}]
    assert CHILD_VARIABLE not in os.environ
    assert as_child() is None
    for channel in (ours, theirs, child.channel):
        channel.close()


def test_the_memory_of_a_process_is_known_and_of_none_that_is_not_there():
    rss, own, pss = memory_of(os.getpid())
    assert 0 < own <= pss <= rss
    assert own_rss_mb() == pytest.approx(resident_bytes(os.getpid()) / 2**20, rel=0.1)
    assert memory_of(2**22 + 1) is None
