"""Tells systemd how it goes, where a unit has Type=notify: see sd_notify(3)."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Self

from pgonly_django.worker.status import Status, WorkerState

STARTED_STATES = (WorkerState.READY, WorkerState.ASLEEP, WorkerState.AWAY)
TELL_SECONDS = 1.0
JOIN_SECONDS = 1.0
MICROSECONDS = 1_000_000


class Systemd:
    """For one thread. tell() sends what has changed, and the keep-alive of WatchdogSec when it is due."""

    def __init__(self, address: str, watchdog_seconds: float | None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._said: set[str] = set()
        self._next_keep_alive = 0.0

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Self | None:
        """None outside of a unit with Type=notify. The variables are taken out: no child speaks for this process."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return None
        is_watched = microseconds.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / MICROSECONDS if is_watched else None)

    @property
    def interval_seconds(self) -> float:
        """tell() is to be called at least so often."""
        return min(TELL_SECONDS, self.watchdog_seconds / 4) if self.watchdog_seconds else TELL_SECONDS

    def tell(self, statuses: Sequence[Status], *, is_stopping: bool) -> None:
        """`statuses` of all workers of this service that have told one."""
        if any(status.state in STARTED_STATES for status in statuses):
            self._say_once("READY=1")
        if is_stopping:
            self._say_once("STOPPING=1")
        if statuses:
            running, done = sum(each.running for each in statuses), sum(each.jobs_done for each in statuses)
            text = f"STATUS={len(statuses)} process(es), {running} job(s) running, {done} done"
            if text not in self._said:
                self._said = {each for each in self._said if not each.startswith("STATUS=")}
                self._say_once(text)
        now = time.monotonic()
        stalled = any(status.is_stalled for status in statuses)
        if self.watchdog_seconds and not stalled and now >= self._next_keep_alive:
            self._next_keep_alive = now + self.watchdog_seconds / 2
            self._send("WATCHDOG=1")

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._send(line)

    def _send(self, line: str) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(line.encode(), self._address)


class SystemdThread(threading.Thread):
    """Of a worker without a supervisor."""

    def __init__(self, systemd: Systemd, status: Callable[[], Status]) -> None:
        super().__init__(name="pgonly-systemd", daemon=True)
        self.systemd = systemd
        self.status = status
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            status = self.status()
            self.systemd.tell([status], is_stopping=status.state is WorkerState.STOPPING)
            self._over.wait(self.systemd.interval_seconds)

    def end(self) -> None:
        self._over.set()
        self.join(JOIN_SECONDS)
        self.systemd.tell([self.status()], is_stopping=True)
