"""What runs beside a worker in its process, and speaks with those who look after it."""

from __future__ import annotations

import logging
import threading
import time
from selectors import EVENT_READ
from typing import Self

from pgonly_django.events import emit
from pgonly_django.worker.health.health import Health
from pgonly_django.worker.inbox import Inbox
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.status import Statuses, Systemd, WorkerState, own_rss_mb
from pgonly_django.worker.supervisor.channel import Channel, Link

LINK_SECONDS = 1.0  # a status that has changed is told so often, ...
STARTING_SECONDS = 0.1  # ... and soon that the worker is ready
RETIREMENT_SECONDS = 1.0  # between two looks at its jobs and its memory
AGAIN_SECONDS = 1.0  # after an error that no other code has caught
JOIN_SECONDS = 2.0


class Beside(threading.Thread):
    """Answers probes, tells systemd or the supervisor how the worker is, and retires it: also while jobs keep the main
    loop from turning. With a supervisor (`channel`) that speaks for all its processes."""

    def __init__(
        self, worker: WorkerLoop, health: Health, channel: Channel | None = None, *, owns_process: bool = True
    ) -> None:
        super().__init__(name="pgonly-beside", daemon=True)
        self.worker = worker
        self.health = health
        health.statuses, health.wake = lambda: Statuses.of([worker.status()]), worker.wake
        self._inbox: Inbox[None] = Inbox()
        self.link = None if channel is None else Link(worker, channel)
        self.systemd = Systemd.from_environment() if owns_process and channel is None else None
        self._has_retired = self._is_over = False

    def __enter__(self) -> Self:
        if self.link is not None:  # before the first claim: whenever the process dies, its jobs can be found
            self.link.tell_status()
        if self.link or self.systemd or self._may_retire or self.health.is_on:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """A worker that has ended as it should says so."""
        self._is_over = True
        if self.is_alive():
            self._inbox.put(None)
            self.join(JOIN_SECONDS)
        self._inbox.close()
        self.health.close()
        if kind is None:
            if self.link is not None:
                self._retire_if_due()  # the last jobs may have taken less time than a turn
                self.link.end()
            if self.systemd is not None:
                self.systemd.tell([self.worker.status()], is_stopping=True)

    def run(self) -> None:
        while not self._is_over:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - a process that tells nothing is killed with its jobs
                said = f"How the worker is could not be told, trying again: {error!r}"
                if self.link is None:
                    emit("worker.health_failed", said, level=logging.ERROR, exc_info=True)
                else:
                    emit("worker.status_not_told", said, level=logging.ERROR, exc_info=True)
                time.sleep(AGAIN_SECONDS)

    def _turn(self) -> None:
        sockets = self.health.sockets()
        if self.link is not None and not self.link.channel.is_closed:
            sockets[self.link.channel.fileno()] = EVENT_READ
        ready = self._inbox.wait(self._pause(), sockets)
        self._inbox.take(100, 0.0)
        if self._is_over:
            return
        self.health.handle(ready)
        if self.link is not None:
            self.link.turn()
        if self.systemd is not None:
            status = self.worker.status()
            self.systemd.tell([status], is_stopping=status.state is WorkerState.STOPPING)
        self._retire_if_due()

    def _pause(self) -> float:
        times = [60.0, self.health.next_deadline() - time.monotonic()]
        if self.link is not None:
            times.append(LINK_SECONDS if self.worker.ready.is_set() else STARTING_SECONDS)
        if self.systemd is not None:
            times.append(self.systemd.interval_seconds)
        if self._may_retire:
            times.append(RETIREMENT_SECONDS)
        return max(min(times), 0.0)

    @property
    def _may_retire(self) -> bool:
        options = self.worker.options
        return options.max_jobs_per_process is not None or options.max_memory_mb is not None

    def why_to_retire(self) -> str | None:
        """Why a fresh process is to take the place of this one; None: it continues."""
        jobs, most = self.worker.options.max_jobs_per_process, self.worker.options.max_memory_mb
        if self.worker.capacity.is_used_up:
            return f"{jobs} job(s) claimed (--max-jobs-per-process {jobs})"
        taken = None if most is None else own_rss_mb()
        if most is not None and taken is not None and taken > most:
            return f"{taken:.0f} MB taken (--max-memory-mb {most:g})"
        return None

    def _retire_if_due(self) -> None:
        reason = None if self._has_retired else self.why_to_retire()
        if reason is None:
            return
        self._has_retired = True
        self.worker.retire()
        if self.link is not None:
            self.link.retire(reason)
        else:
            message = (
                f"This process finishes its jobs and ends, so that a fresh one can be started: {reason}."
            )
            emit("worker.retiring", message, reason=reason)
