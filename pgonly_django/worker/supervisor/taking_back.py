"""Takes the jobs of dead processes back, as soon as PostgreSQL can be reached.

To connect may take seconds: a name that does not resolve, a host that does not answer. The supervisor must not wait for
that, or it would watch its processes no more. So it forks a process for it, which can be killed; where this process may
not be forked, a thread does it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors

from pgonly_django.database import notify, wake_urls
from pgonly_django.database.connect import OwnConnection, connect
from pgonly_django.events import emit
from pgonly_django.queue import stats
from pgonly_django.queue.known_dead import end_sessions, rescue_known_dead
from pgonly_django.queue.rescue import Rescued
from pgonly_django.worker.heartbeat import emit_rescued, payloads_for_all, payloads_for_one
from pgonly_django.worker.supervisor.channel import Channel
from pgonly_django.worker.supervisor.process import reap
from pgonly_django.worker.supervisor.starting import fork_to, forks

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
TRY_SECONDS = 20.0  # a process that takes longer is killed, and another one tries
LOCK_WAIT = "2s"
LOOK_AGAIN_SECONDS = 0.02
WAKE_SECONDS = 2.0  # for the POSTs to workers that sleep
ANSWER_BYTES = 64 * 1024**2  # a process may have held thousands of jobs


@dataclass
class Dead:
    """A process whose end was seen."""

    worker_id: str
    name: str
    planned: bool  # it was told to stop, so that its jobs are not blamed
    ended_at: float
    taken: int = 0


@dataclass
class _Try:
    ids: list[str]
    answers: Channel
    began_at: float
    pid: int | None  # None: a thread


class TakingBack:
    """For the supervisor's loop. It forgets no worker until none of its jobs is left in its name."""

    def __init__(self, alias: str, method: str, close_inherited: Callable[[], None]) -> None:
        self.alias = alias
        self.method = method
        self.close_inherited = close_inherited
        self.payloads: list[str] = []  # for one of the workers
        self.pids: set[int] = set()  # of processes that were not waited for yet
        self._dead: dict[str, Dead] = {}
        self._try: _Try | None = None
        self._next_try = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._is_late = False

    def add(self, dead: Dead) -> None:
        self._dead[dead.worker_id] = dead
        self._next_try, self._pause = 0.0, FIRST_PAUSE_SECONDS

    @property
    def is_over(self) -> bool:
        return not self._dead

    @property
    def names(self) -> list[str]:
        return [dead.name for dead in self._dead.values()]

    def sockets(self) -> list[int]:
        return [] if self._try is None else [self._try.answers.fileno()]

    def next_turn(self, now: float) -> float:
        """The seconds until there is something to do."""
        if self._try is not None or not self._dead:
            return TRY_SECONDS
        return max(self._next_try - now, 0.0)

    def turn(self, now: float) -> None:
        if self._try is not None:
            self._look_after(self._try, now)
        if self._try is None and self._dead and now >= self._next_try:
            self._begin(now)

    def forget(self) -> None:
        """In a forked child."""
        if self._try is not None:
            self._try.answers.close()

    def close(self, by: float = float("inf")) -> None:
        """Wait for no answer any more. Processes that have given theirs may still wake workers that sleep, until `by`
        at the latest."""
        deadline = time.monotonic()
        if self._try is None:
            deadline = min(deadline + WAKE_SECONDS, by)
        else:
            self._try.answers.close()
            self._try = None
        while self.pids and time.monotonic() < deadline:
            self.pids -= reap(list(self.pids), all_of_them=False).keys()
            time.sleep(LOOK_AGAIN_SECONDS)
        for pid in self.pids:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.pids.clear()

    def _begin(self, now: float) -> None:
        try:
            ours, theirs = Channel.pair(ANSWER_BYTES)
        except OSError as error:  # the system has no descriptor to spare
            self._put_off(now, str(error))
            return
        crashed, stopped = (
            [each.worker_id for each in self._dead.values() if each.planned is planned]
            for planned in (False, True)
        )
        try:
            pid = self._start(ours, self.alias, crashed, stopped, theirs)
        except (OSError, RuntimeError) as error:  # no process, or no thread
            for end in (ours, theirs):
                end.close()
            self._put_off(now, str(error))
            return
        self._try = _Try([*crashed, *stopped], ours, now, pid)

    def _start(self, ours: Channel, *work: Any) -> int | None:
        """The pid of the process that does it; None: a thread does."""
        if not forks(self.method):
            threading.Thread(target=_answer, args=work, name="pgonly-taking-back", daemon=True).start()
            return None
        pid = fork_to(_in_process, self.close_inherited, ours, *work)
        self.pids.add(pid)
        theirs: Channel = work[-1]
        theirs.close()
        return pid

    def _look_after(self, attempt: _Try, now: float) -> None:
        answers = attempt.answers.receive()
        if not answers and not attempt.answers.is_closed:
            if attempt.pid in self.pids and now - attempt.began_at > TRY_SECONDS:
                os.kill(attempt.pid, signal.SIGKILL)
            return
        self._try = None
        attempt.answers.close()
        answer = answers[-1] if answers else {"error": "the process that was to do it ended"}
        if "error" in answer:
            self._put_off(now, str(answer["error"]))
        else:
            self._take_note(attempt, answer, now)

    def _put_off(self, now: float, reason: str) -> None:
        if not self._is_late:
            message = (
                f"The jobs of {', '.join(self.names)} cannot be taken back, trying again: {reason.strip()}"
            )
            emit("worker.taking_back_failed", message, level=logging.WARNING, workers=self.names)
        self._is_late = True
        self._next_try = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    def _take_note(self, attempt: _Try, answer: dict[str, Any], now: float) -> None:
        rescued = [Rescued(UUID(job_id), *rest) for job_id, *rest in answer["rescued"]]
        emit_rescued(rescued)
        self.payloads += payloads_for_one(rescued)
        for worker_id, count in answer["counts"].items():
            self._dead[worker_id].taken += count
        over = [self._dead.pop(worker_id) for worker_id in attempt.ids if worker_id not in answer["still"]]
        for dead in over:
            if dead.taken:
                _emit_taken(dead, now)
        self._is_late, self._pause = bool(self._dead), FIRST_PAUSE_SECONDS if over else self._pause
        if answer["still"]:
            self._put_off(now, "rows are locked")


def _emit_taken(dead: Dead, now: float) -> None:
    message = f"{dead.taken} job(s) of {dead.name} were taken back {now - dead.ended_at:.2f} s after its end."
    emit("worker.jobs_taken_back", message, worker=dead.name, jobs=dead.taken)


def _in_process(close_inherited: Callable[[], None], ours: Channel, *work: Any) -> None:
    ours.close()
    close_inherited()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the supervisor ends this process
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    _answer(*work)
    wake_urls.flush(WAKE_SECONDS)  # behind the answer: the next death must not wait for a URL that hangs


def _answer(alias: str, crashed: list[str], stopped: list[str], answers: Channel) -> None:
    try:
        answer = take_back(alias, crashed, stopped)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
        answer = {"error": str(error) or type(error).__name__}
    answers.send(answer)
    deadline = time.monotonic() + TRY_SECONDS
    while not answers.is_flushed and time.monotonic() < deadline:
        time.sleep(0.01)
        answers.flush()
    answers.close()


def take_back(alias: str, crashed: Iterable[str], stopped: Iterable[str]) -> dict[str, Any]:
    """What JSON can hold: the jobs that went back, how many of each worker, and the workers that have some left."""
    rescued: list[Rescued] = []
    counts: dict[str, int] = {}
    still: list[str] = []
    with connect(alias, application_name="pgonly supervisor") as connection:
        connection.apply_session_settings(lock_wait=LOCK_WAIT)
        for ids, planned in ((crashed, False), (stopped, True)):
            for worker_id in map(UUID, ids):  # one by one: a row that is locked keeps the others from nothing
                _end_sessions(connection, [worker_id])
                with connection.session_settings(), connection.transaction():
                    taken = rescue_known_dead(connection, [worker_id], planned=planned)
                    for payload in payloads_for_all(taken.rescued):
                        notify.send(connection, payload)
                _count(connection, taken.rescued)
                rescued += taken.rescued
                counts[str(worker_id)] = len(taken.rescued)
                still += map(str, taken.still)
    return {"rescued": [[str(job.id), *job[1:]] for job in rescued], "counts": counts, "still": still}


def _count(connection: OwnConnection, rescued: Collection[Rescued]) -> None:
    """In the statistics. The jobs have gone back by now, so that a second try would not find them."""
    if rescued:
        with suppress(psycopg.Error):
            stats.add(connection, stats.counts_of_rescued(rescued))


def _end_sessions(connection: OwnConnection, workers: Collection[UUID]) -> None:
    """Sessions of roles that may not be ended here keep their locks."""
    try:
        end_sessions(connection, workers)
    except errors.InsufficientPrivilege:
        end_sessions(connection, workers, of_any_role=False)
