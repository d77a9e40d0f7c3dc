"""The thread beside a worker in its process, which talks to those that supervise it."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict, replace
from selectors import EVENT_READ
from typing import Any, Self

from pgonly_django.events import emit
from pgonly_django.worker.health.health import Health
from pgonly_django.worker.inbox import Inbox
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.status import Status, Statuses, Systemd, WorkerState, own_rss_mb
from pgonly_django.worker.supervisor.channel import Channel

TELL_SECONDS = 1.0  # a status that has changed is told so often, ...
STARTING_SECONDS = 0.1  # ... soon that the worker is ready, ...
SAME_SECONDS = 10.0  # ... and one that has not changed now and then
DATABASE_SECONDS = 0.1  # between two looks whether it is there
RETIREMENT_SECONDS = 1.0  # between two looks at its jobs and its memory
AGAIN_SECONDS = 1.0  # after an error that no other code has caught
JOIN_SECONDS = 2.0


class Beside(threading.Thread):
    """Answers probes, tells systemd or the supervisor how the worker is, and retires it: also while jobs keep the main
    loop from turning. With a supervisor, the `channel` speaks for all its processes."""

    def __init__(
        self, worker: WorkerLoop, health: Health, channel: Channel | None = None, *, owns_process: bool = True
    ) -> None:
        super().__init__(name="pgonly-beside", daemon=True)
        self.worker, self.health, self.channel = worker, health, channel
        health.statuses, health.wake = lambda: Statuses.of([worker.status()]), worker.wake
        self._inbox: Inbox[None] = Inbox()
        self.systemd = Systemd.from_environment() if owns_process and channel is None else None
        limits = worker.options.max_jobs_per_process, worker.options.max_memory_mb
        self._may_retire = limits != (None, None)
        self._has_retired = self._is_over = False
        self._told: Status | None = None
        self._told_at = 0.0

    def __enter__(self) -> Self:
        self._tell()  # before the first claim: whenever the process dies, its jobs can be found
        if self.channel or self.systemd or self._may_retire or self.health.is_on:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Reports that the worker has ended as it should, and whether all its jobs have been given back."""
        self._is_over = True
        if self.is_alive():
            self._inbox.put(None)
            self.join(JOIN_SECONDS)
        self._inbox.close()
        self.health.close()
        if kind is None:
            if self.channel is not None:
                self._retire_if_due()  # the last jobs may have taken less time than a turn
                holds_nothing = self.worker.in_flight.is_empty
                self._tell(holds_nothing=holds_nothing, is_out_of_time=self.worker.deadline.claims_nothing)
            if self.systemd is not None:
                self.systemd.tell([self.worker.status()], is_stopping=True)

    def run(self) -> None:
        while not self._is_over:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - a process that tells nothing is killed with its jobs
                said = f"The status of the worker could not be reported, trying again: {error!r}"
                if self.channel is None:
                    emit("worker.health_failed", said, level=logging.ERROR, exc_info=True)
                else:
                    emit("worker.status_not_told", said, level=logging.ERROR, exc_info=True)
                time.sleep(AGAIN_SECONDS)

    def _turn(self) -> None:
        sockets = self.health.sockets()
        if self.channel is not None and not self.channel.is_closed:
            sockets[self.channel.fileno()] = EVENT_READ
        self._inbox.wait(self._pause(), sockets)
        if self._is_over:
            return
        self.health.handle()
        if self.channel is not None and not self.channel.is_closed:
            self._speak(self.channel)
        if self.systemd is not None:
            status = self.worker.status()
            self.systemd.tell([status], is_stopping=status.state is WorkerState.STOPPING)
        self._retire_if_due()

    def _speak(self, supervisor: Channel) -> None:
        """Passes on what it says, and tells it how the worker is, where that has changed."""
        for message in supervisor.receive():
            self.worker.inbox.put(str(message.get("payload")))
        if supervisor.is_closed:
            said = "The supervisor has ended: this process gives its jobs back and ends."
            emit("worker.supervisor_gone", said, level=logging.WARNING, worker=self.worker.options.name)
            self.worker.stop()
        status, told = self.worker.status(), self._told
        is_same = told is not None and replace(status, turned_at=told.turned_at) == told
        if not is_same or time.monotonic() - self._told_at >= SAME_SECONDS:
            self._tell()

    def _tell(self, **facts: Any) -> None:
        """Tells the supervisor, where there is one."""
        if self.channel is not None:
            self._told, self._told_at = self.worker.status(), time.monotonic()
            self.channel.send({"status": asdict(self._told), **facts})

    def _pause(self) -> float:
        times = [60.0, self.health.next_deadline() - time.monotonic()]
        if self.channel is not None:
            times.append(TELL_SECONDS if self.worker.ready.is_set() else STARTING_SECONDS)
        if self.systemd is not None:
            times.append(self.systemd.interval_seconds)
        if self._may_retire:
            times.append(RETIREMENT_SECONDS)
        return max(min(times), 0.0)

    def why_to_retire(self) -> str | None:
        """Returns why a fresh process has to take the place of this one; None: it continues."""
        jobs, most = self.worker.options.max_jobs_per_process, self.worker.options.max_memory_mb
        if self.worker.plan.is_used_up:
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
        if self.channel is not None:
            self._tell(retire=reason)
        else:
            message = (
                f"This process finishes its jobs and ends, so that a fresh one can be started: {reason}."
            )
            emit("worker.retiring", message, reason=reason)


def is_database_there(worker: WorkerLoop) -> bool:
    """Waits for the database before the worker starts: its process may be started while the database is unavailable.
    Returns False when the process is told to stop in that time."""
    while worker.database.connection() is None:
        worker.turned_at = time.monotonic()
        if worker.is_stopping or worker.turned_at >= worker.deadline.stop_at:
            return False
        time.sleep(DATABASE_SECONDS)
    return True
