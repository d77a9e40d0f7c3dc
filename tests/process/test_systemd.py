"""What `runworker` tells systemd in a unit with Type=notify and WatchdogSec: over a real socket."""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from tests import jobs
from tests.waiting import wait_for

pytestmark = [pytest.mark.process(starts_afresh=True), pytest.mark.slow]


class Manager:
    """Systemd's side of the socket."""

    def __init__(self, address):
        self.address = address
        self.lines = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def has_heard(self, line):
        with contextlib.suppress(BlockingIOError):
            while True:
                self.lines.append(self._socket.recv(4096).decode())
        return any(each.startswith(line) for each in self.lines)

    def close(self):
        self._socket.close()


@pytest.fixture
def manager():
    with tempfile.TemporaryDirectory(prefix="pgonly-") as folder:  # a short path
        manager = Manager(str(Path(folder) / "notify"))
        yield manager
        manager.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_systemd_hears_how_it_goes(workers, manager, processes):
    worker = workers.start(
        "--processes", str(processes), "--grace-seconds", "0.5",
        ready=False, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="2000000",
    )  # fmt: skip
    wait_for(lambda: manager.has_heard("READY=1"), what="READY=1")
    wait_for(lambda: manager.has_heard(f"STATUS={processes} process(es), 0 job(s) running"))
    jobs.pause.enqueue(60)
    wait_for(lambda: manager.has_heard(f"STATUS={processes} process(es), 1 job(s) running"))
    del manager.lines[:]
    wait_for(lambda: manager.has_heard("WATCHDOG=1"))
    assert not manager.has_heard("READY=1")  # once
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert manager.has_heard("STOPPING=1")
