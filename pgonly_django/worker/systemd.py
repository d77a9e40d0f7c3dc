"""Tells systemd how it goes, where a unit has Type=notify: see sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from typing import Self

from pgonly_django.worker.status import Status, WorkerState

STARTED_STATES = (WorkerState.READY, WorkerState.ASLEEP, WorkerState.AWAY)
TELL_SECONDS = 1.0
MICROSECONDS = 1_000_000


class Systemd:
    """For one thread. tell() sends what has changed, and the keep-alive of WatchdogSec when it is due."""

    def __init__(self, address: str, watchdog_seconds: float | None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._said: list[str] = []
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
        lines = ["READY=1"] if any(each.state in STARTED_STATES for each in statuses) else []
        if is_stopping:
            lines.append("STOPPING=1")
        if statuses:
            running, done = sum(each.running for each in statuses), sum(each.jobs_done for each in statuses)
            lines.append(f"STATUS={len(statuses)} process(es), {running} job(s) running, {done} done")
        for line in lines:
            if line not in self._said:
                self._send(line)
        self._said = lines
        now = time.monotonic()
        stalled = any(status.is_stalled for status in statuses)
        if self.watchdog_seconds and not stalled and now >= self._next_keep_alive:
            self._next_keep_alive = now + self.watchdog_seconds / 2
            self._send("WATCHDOG=1")

    def _send(self, line: str) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(line.encode(), self._address)
