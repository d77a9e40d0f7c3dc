from __future__ import annotations

import os
import threading
import time
from io import StringIO

import pytest

from pgonly_django.events import subscribe
from pgonly_django.exceptions import OptionError
from pgonly_django.management.commands import runworker
from pgonly_django.worker import status as status_module
from pgonly_django.worker.health import health as module
from pgonly_django.worker.health.health import Health, wait
from pgonly_django.worker.health.snapshot import Snapshot
from pgonly_django.worker.options import WorkerOptions
from tests.waiting import wait_for
from tests.worker.health.statuses import snapshot, status
from tests.worker.health.test_server import ask, free_port


def threads():
    return [each.name for each in threading.enumerate() if each.name == "pgonly-health"]


def test_without_port_and_file_there_is_nothing_and_no_thread():
    with Health() as health, health.in_thread():
        assert not health.is_on
        assert health.sockets() == {}
        assert health.next_deadline() == float("inf")
        assert threads() == []


def test_a_loop_of_others_can_drive_it():
    """As the supervisor does, without a thread."""
    with Health("127.0.0.1", free_port()) as health:
        health.snapshot = lambda: snapshot(status(running=1))
        answers = []
        client = threading.Thread(target=lambda: answers.append(ask(health, "GET", "/busy")))
        client.start()
        wait_for(lambda: health.handle(wait(health.sockets(), time.monotonic() + 0.1)) or answers)
        client.join()
        assert answers == [(200, b'{"busy": true, "running": 1}\n')]
        assert threads() == []


def test_an_idle_server_waits_without_a_deadline():
    with Health("127.0.0.1", free_port()) as health:
        assert health.next_deadline() == float("inf")


def test_what_nobody_expects_ends_no_answers(monkeypatch):
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.0)
    said = []
    stop = subscribe(lambda name, facts: said.append(name))
    with Health("127.0.0.1", free_port()) as health, health.in_thread():
        handle, health.handle = health.handle, lambda _: 1 / 0
        with pytest.raises(OSError):
            ask_once(health)
        wait_for(lambda: "worker.health_failed" in said)
        health.handle = handle
        assert ask(health, "GET", "/live")[0] == 200
    stop()


def ask_once(health):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", health.server.port, timeout=0.2)
    try:
        connection.request("GET", "/live")
        connection.getresponse()
    finally:
        connection.close()


def test_a_main_loop_that_hangs_is_not_live_while_its_health_port_answers(background_worker, monkeypatch):
    monkeypatch.setattr(status_module, "STALLED_SECONDS", 0.5)
    worker = background_worker(poll_seconds=0.1)
    goes_on, exchange = threading.Event(), worker._exchange
    with Health("127.0.0.1", free_port()) as health, health.in_thread():
        health.snapshot = lambda: Snapshot.of_one(worker.status())
        wait_for(lambda: ask(health, "GET", "/live")[0] == 200)
        worker._exchange = lambda now: goes_on.wait(60) and exchange(now)
        wait_for(lambda: ask(health, "GET", "/live")[0] == 503)
        assert b"has not turned for" in ask(health, "GET", "/ready")[1]
        goes_on.set()
        wait_for(lambda: ask(health, "GET", "/ready")[0] == 200)


def test_a_file_that_cannot_be_written_leaves_no_port_open(tmp_path):
    port = free_port()
    with pytest.raises(OptionError):
        Health("127.0.0.1", port, str(tmp_path))
    Health("127.0.0.1", port).close()


def test_a_forked_child_forgets_and_its_parent_goes_on(tmp_path):
    path = tmp_path / "alive"
    with Health("127.0.0.1", free_port(), str(path)) as health, health.in_thread():
        pid = os.fork()
        if not pid:
            health.forget()
            os._exit(0)
        os.waitpid(pid, 0)
        assert path.exists()
        assert ask(health, "GET", "/live")[0] == 200


def test_the_snapshot_of_one_worker_knows_its_memory():
    seen = Snapshot.of_one(status(pid=os.getpid()))
    assert 1_000_000 < seen.memory[os.getpid()] < 10_000_000_000
    assert Snapshot.of_one(status(pid=2**30)).memory == {}


@pytest.mark.parametrize(("text", "is_said"), [("hello", True), ("70000", True), ("", False), ("0", False)])
def test_a_variable_that_names_no_port_is_said(text, is_said, monkeypatch):
    monkeypatch.setenv("PORT", text)
    command = runworker.Command(stderr=StringIO())
    command._owns_process = True
    with command._open_health(WorkerOptions()) as health:
        assert not health.is_on
    told = command.stderr.getvalue()
    assert (f"No health port: $PORT is {text!r}, and a port is a number from 1 to 65535." in told) == is_said
