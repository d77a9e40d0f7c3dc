"""Takes the jobs of dead processes back: the supervisor asks one living process after the other, until an answer says
that none is left. It waits for none of them, or it would watch its processes no more: to connect may take seconds."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import psycopg
from psycopg import errors

from pgonly_django.database.connect import OwnConnection, connect
from pgonly_django.events import emit
from pgonly_django.queue import stats
from pgonly_django.queue.rescue import end_sessions, rescue_known_dead
from pgonly_django.worker.heartbeat import announce
from pgonly_django.worker.inbox import Tell

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
ANSWER_SECONDS = 1.0  # then another one is asked; what both do is done once
ALONE_SECONDS = (
    1.0  # where no process lives, a new one has this time to start before the supervisor does it by itself
)
ASKED_AT_ONCE = 100
LOCK_WAIT = "2s"


class Dead(NamedTuple):
    """A process whose end was seen."""

    worker_id: str
    name: str
    planned: bool  # it was told to stop, so that its jobs are not blamed
    ended_at: float  # time.monotonic(), which is the same clock in all processes of a machine


class Living(Protocol):
    """A process that can be asked."""

    name: str
    answers: deque[dict[str, Any]]

    def ask(self, message: dict[str, Any]) -> None: ...


class ThisProcess:
    """The supervisor's own, which takes jobs back when no other process can be asked."""

    name = "the supervisor"

    def __init__(self, alias: str, wake: Callable[[], None]) -> None:
        """`wake` ends the wait of the supervisor's loop."""
        self.answers: deque[dict[str, Any]] = deque()
        self.told: deque[Any] = deque()  # for the next process that lives: what follows the end of a job
        self._alias, self._wake = alias, wake

    def ask(self, message: dict[str, Any]) -> None:
        threading.Thread(target=self._take_back, args=(message["take_back"],), daemon=True).start()

    def _take_back(self, dead: Iterable[Sequence[Any]]) -> None:
        self.answers.append(take_back(self._alias, dead, "pgonly supervisor", self.told.append))
        self._wake()


class TakingBack:
    """For the supervisor's loop. It forgets no worker until none of its jobs is left in its name."""

    def __init__(self) -> None:
        self._dead: dict[str, Dead] = {}
        self._asked: Living | None = None
        self._tries = 0
        self._due_at = 0.0  # of the answer, or of the next try
        self._pause = FIRST_PAUSE_SECONDS
        self._is_late = self._has_nobody = False

    def add(self, dead: Dead) -> None:
        self._dead[dead.worker_id] = dead
        if self._asked is None:
            self._due_at = 0.0
        self._tries, self._pause = 0, FIRST_PAUSE_SECONDS

    @property
    def is_over(self) -> bool:
        return not self._dead

    @property
    def names(self) -> list[str]:
        return [dead.name for dead in self._dead.values()]

    def next_turn(self, now: float) -> float:
        """The seconds until there is something to do. A process that can be asked tells of itself before that."""
        if not self._dead or self._has_nobody:
            return ALONE_SECONDS / 4
        return max(self._due_at - now, 0.0)

    def is_alone_too_long(self, now: float) -> bool:
        """For where no process can be asked."""
        return any(now - dead.ended_at >= ALONE_SECONDS for dead in self._dead.values())

    def turn(self, now: float, living: Sequence[Living]) -> None:
        """`living`: those that may be asked, the best ones first."""
        for each in living:
            while each.answers:
                self._take_note(each, each.answers.popleft(), now)
        if self._asked is not None and self._asked not in living:  # it has ended
            self._asked, self._due_at = None, now
        if self._asked is not None and now >= self._due_at:
            self._put_off(now, f"{self._asked.name} does not answer")
        if self._asked is None and self._dead and now >= self._due_at and living:
            self._asked = living[self._tries % len(living)]
            self._due_at = now + ANSWER_SECONDS
            self._asked.ask({"take_back": list(self._dead.values())[:ASKED_AT_ONCE]})
        self._has_nobody = not living

    def _take_note(self, process: Living, answer: Mapping[str, Any], now: float) -> None:
        """Of an answer, whenever it comes."""
        for worker_id in map(str, answer["taken_back"]):
            if self._dead.pop(worker_id, None) is not None:
                self._is_late, self._pause = False, FIRST_PAUSE_SECONDS
        if process is self._asked:
            self._asked, self._due_at = None, now
            if self._dead and (error := answer.get("error")):
                self._put_off(now, str(error))

    def _put_off(self, now: float, reason: str) -> None:
        if not self._is_late:
            names = ", ".join(self.names)
            message = f"The jobs of {names} cannot be taken back, trying again: {reason.strip()}"
            emit("worker.taking_back_failed", message, level=logging.WARNING, workers=self.names)
        self._asked, self._is_late = None, True
        self._tries += 1
        self._due_at = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)


def take_back(
    alias: str, dead: Iterable[Sequence[Any]], name: str, tell: Tell = lambda _: None
) -> dict[str, Any]:
    """In a living process: give the jobs of the `dead` back. `tell` tells the worker of this process. Returns what JSON
    can hold: the ids of the workers in whose name none is left, and the error that kept it from the others."""
    over: list[str] = []
    error = ""
    try:
        with connect(alias, application_name=name) as connection:
            connection.apply_session_settings(lock_wait=LOCK_WAIT)
            for each in (Dead(*facts) for facts in dead):
                if _take_back_one(connection, each, tell):
                    over.append(each.worker_id)
                else:  # a row that is locked keeps the other workers from nothing
                    error = "rows are locked"
    except Exception as raised:  # noqa: BLE001 - whatever it is, it is tried again
        error = str(raised) or type(raised).__name__
    return {"taken_back": over, "error": error}


def _take_back_one(connection: OwnConnection, dead: Dead, tell: Tell) -> bool:
    """Whether none is left."""
    workers = [UUID(dead.worker_id)]
    try:
        end_sessions(connection, workers)
    except errors.InsufficientPrivilege:  # sessions of roles that may not be ended here keep their locks
        end_sessions(connection, workers, of_any_role=False)
    rescued, still = rescue_known_dead(connection, workers, planned=dead.planned)
    announce(connection, rescued, tell)
    if rescued:
        seconds = time.monotonic() - dead.ended_at
        message = f"{len(rescued)} job(s) of {dead.name} were taken back {seconds:.2f} s after its end."
        emit("worker.jobs_taken_back", message, worker=dead.name, jobs=len(rescued))
        with suppress(psycopg.Error):  # the jobs have gone back: a second try would not find them
            stats.add(connection, stats.counts_of_rescued(rescued))
    return not still
