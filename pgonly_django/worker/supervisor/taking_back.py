"""Takes the jobs of dead processes back, over a connection that the supervisor opens for this alone, in a thread that
ends with it: to connect may take seconds, in which the processes that live are watched."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import errors

from pgonly_django.database import wake_urls
from pgonly_django.database.connect import OwnConnection, connect
from pgonly_django.events import emit
from pgonly_django.queue import stats
from pgonly_django.queue.rescue import end_sessions, rescue_known_dead
from pgonly_django.worker.heartbeat import announce
from pgonly_django.worker.inbox import Tell
from pgonly_django.worker.timers import NEVER

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0  # between two tries
LOOK_SECONDS = 0.02  # between two looks whether the thread has ended; longer where it takes long
# No process is forked beside the thread, whose locks would stay locked in the child. Where the thread hangs, other
# processes wait for it no longer than this.
NO_FORK_SECONDS = 2.0
LOCK_WAIT = "2s"


class Dead(NamedTuple):
    """A process whose end was seen."""

    worker_id: UUID
    name: str
    planned: bool  # it was told to stop, so that its jobs are not blamed
    ended_at: float  # time.monotonic()


class TakingBack:
    """Takes jobs back for the supervisor's loop. It forgets no worker until none of its jobs is left in its name."""

    def __init__(self, alias: str) -> None:
        self.told: deque[Any] = deque()  # for a process that lives: what follows the end of a job
        self._alias = alias
        self._dead: dict[UUID, Dead] = {}
        self._thread: threading.Thread | None = None
        self._began_at = self._due_at = 0.0  # of a try
        self._pause = FIRST_PAUSE_SECONDS
        self._is_late = False

    def add(self, dead: Dead) -> None:
        self._dead[dead.worker_id] = dead
        self._due_at, self._pause = 0.0, FIRST_PAUSE_SECONDS

    @property
    def is_over(self) -> bool:
        return not self._dead

    @property
    def names(self) -> list[str]:
        return [dead.name for dead in tuple(self._dead.values())]

    @property
    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def keeps_from_forking(self, now: float) -> bool:
        return self._is_running and now - self._began_at < NO_FORK_SECONDS

    def next_turn(self, now: float) -> float:
        if self._is_running:
            return now + LOOK_SECONDS + (now - self._began_at) / 10
        return self._due_at if self._dead else NEVER

    def turn(self, now: float) -> None:
        if not self._dead or now < self._due_at or self._is_running:
            return
        self._began_at = now
        dead = tuple(self._dead.values())
        self._thread = threading.Thread(target=self._run, args=[dead], name="pgonly-taking-back", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system starts no more threads
            self._put_off(str(error))

    def _run(self, dead: tuple[Dead, ...]) -> None:
        error = ""
        try:
            with connect(self._alias, application_name="pgonly supervisor") as connection:
                connection.apply_session_settings(lock_wait=LOCK_WAIT)
                for each in dead:
                    if take_back(connection, each, self.told.append):
                        del self._dead[each.worker_id]
                    else:  # a row that is locked keeps the other workers from nothing
                        error = "rows are locked"
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is tried again
            error = str(raised) or type(raised).__name__
        if error:
            self._put_off(error)
        else:
            self._pause, self._is_late = FIRST_PAUSE_SECONDS, False
        wake_urls.flush()  # its thread would keep the supervisor from forking

    def _put_off(self, reason: str) -> None:
        if not self._is_late:
            names = self.names
            message = f"The jobs of {', '.join(names)} cannot be taken back, trying again: {reason.strip()}"
            emit("worker.taking_back_failed", message, level=logging.WARNING, workers=names)
        self._is_late = True
        self._due_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)


def take_back(connection: OwnConnection, dead: Dead, tell: Tell) -> bool:
    """Returns whether none of its jobs is left. `tell` takes what a live worker has to do. Raises psycopg.Error."""
    try:
        end_sessions(connection, dead.worker_id)
    except errors.InsufficientPrivilege:  # sessions of roles that may not be ended here keep their locks
        end_sessions(connection, dead.worker_id, of_any_role=False)
    rescued, some_are_left = rescue_known_dead(connection, dead.worker_id, planned=dead.planned)
    announce(connection, rescued, tell)
    if rescued:
        seconds = time.monotonic() - dead.ended_at
        message = f"{len(rescued)} job(s) of {dead.name} were taken back {seconds:.2f} s after its end."
        emit("worker.jobs_taken_back", message, worker=dead.name, jobs=len(rescued))
        with suppress(psycopg.Error):  # the jobs have gone back: a second try would not find them
            stats.add(connection, stats.counts_of_rescued(rescued))
    return not some_are_left
