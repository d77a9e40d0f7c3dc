"""One tick of this process at a time: the worker's loop with one slot and one connection to the queue, for a bounded
time, in another program's process. It has a separate thread, so that no transaction, event loop or signal of the web
server reaches into it. It starts no other thread except that of the log, and those that its jobs, Django's signals and
schedules need.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from django.db import connections

from pgonly_django.compat import call_before_threads_are_joined
from pgonly_django.database.connect import OwnConnection
from pgonly_django.duties import NEVER, Workplace, in_seconds, tried
from pgonly_django.events import emit
from pgonly_django.exceptions import DatabaseAwayError, PgonlyError
from pgonly_django.queue import health, liveness, promote
from pgonly_django.worker import forked_child
from pgonly_django.worker.django_connections import name_connections_of_thread
from pgonly_django.worker.heartbeat import StandIn
from pgonly_django.worker.housekeeper import Housekeeper
from pgonly_django.worker.loop import FIRST_SCHEDULES_SECONDS, WorkerLoop
from pgonly_django.worker.options import WorkerOptions, database_of_jobs
from pgonly_django.worker.status import ExitCode
from pgonly_django.worker.timers import Timer

NAME = "tick"
MAINTENANCE_EVERY = timedelta(minutes=5)  # of all ticks together, by the clock
MAINTENANCE_SHARE = 0.25  # of its seconds
FORGOTTEN_AFTER = timedelta(minutes=10)  # a minute may have several ticks, and each leaves a row
BEAT_AGAIN_SECONDS = 1.0  # after a beat that failed
RELEASE_SECONDS = 2.0  # for the jobs of a process that is about to end
LEFT_AT_MOST = 4  # threads of earlier ticks, whose jobs ignore their interruption


class TickHousekeeper(Housekeeper):
    """The same duties as a worker's. Schedules, in which code of the project may hang, have a thread; the others run in
    the thread of the tick, on its connection."""

    def __init__(self, workplace: Workplace, connect: Callable[[], OwnConnection]) -> None:
        super().__init__(workplace)
        self._of_tick = connect

    def connect(self) -> OwnConnection:
        return self._of_tick()

    def start(self) -> None:
        """Starts no thread."""

    def begin_burst(self, seconds: float) -> None:
        self._turn()
        until = time.monotonic() + seconds
        while not self.has_looked.wait(min(self._pause(), in_seconds(until))) and time.monotonic() < until:
            self._changed.clear()
            self._turn()
        self._lane.submit(self._close)
        super().begin_burst(0.0)

    @property
    def asked_at(self) -> float:
        """When a duty is due that the main loop has asked for."""
        return min(map(self._due_at, self._still_asked), default=NEVER)

    def run_asked(self) -> None:
        """Does those that are due."""
        due = [duty for duty in self._still_asked if self._due_at(duty) <= time.monotonic()]
        for duty in due:
            self._do(duty, None)
        if due:
            self._close()

    def end(self) -> None:
        super().end()
        self.run_asked()
        self._lane.close(0.0)

    def _close(self) -> None:
        tried("Closing Django's connections", connections.close_all)


class AskedDuties(Timer):
    """Is due when a duty is that the main loop has asked for."""

    def __init__(self, housekeeper: TickHousekeeper) -> None:
        super().__init__()
        self._housekeeper = housekeeper

    @property
    def due_at(self) -> float:
        return self._housekeeper.asked_at

    def run(self) -> None:
        self._housekeeper.run_asked()


class TickBeat(StandIn):
    """The heartbeat of a worker, on the connection of the main loop."""

    def run(self) -> None:
        seconds = self._heartbeat.options.heartbeat_seconds
        is_complete = self._heartbeat.beat_on_main()
        self.at = time.monotonic() + (seconds if is_complete else min(seconds, BEAT_AGAIN_SECONDS))


class WebServer:
    """The web server of this process, which may have been told to stop. gunicorn and uvicorn tell their requests
    nothing: they wait for them, and then end without running any exit function. Their handler of SIGTERM is a method of
    an object that knows. Another server never stops."""

    def __init__(self) -> None:
        self._owner: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if self.is_stopping:  # gunicorn with --max-requests waits for this last one
            self._owner = None

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop. For any thread."""
        return (
            getattr(self._owner, "alive", True) is False or getattr(self._owner, "should_exit", False) is True
        )

    def seconds_left(self, otherwise: float) -> float:
        """Returns how long it waits for its requests after SIGTERM; `otherwise` where it sets no limit."""
        config = getattr(self._owner, "config", None)
        # gunicorn's worker for uvicorn gives its own method as this callback, and gunicorn kills all the same.
        worker = getattr(getattr(config, "callback_notify", None), "__self__", self._owner)
        of_gunicorn = getattr(getattr(worker, "cfg", None), "graceful_timeout", None)
        of_uvicorn = getattr(config, "timeout_graceful_shutdown", None)
        return min((float(each) for each in (of_gunicorn, of_uvicorn) if each is not None), default=otherwise)


class TickLoop(WorkerLoop):
    """The loop of a tick. `answer` exists after the tick has ended; it raises what the loop raised."""

    def __init__(self, alias: str, seconds: float) -> None:
        """Raises ImproperlyConfigured."""
        options = WorkerOptions(
            database=alias, name=NAME, threads=1, burst=True, listen=False, max_seconds=seconds
        )
        super().__init__(options)
        for timers in (self._timers_of_stop, self._timers):
            timers.append(AskedDuties(self.maintenance))
        self.answer: Future[dict[str, Any]] = Future()
        self.answer.set_running_or_notify_cancel()  # a request that waits no more does not cancel it
        self._next_tick_in_seconds: float | None = None  # of a schedule
        self._server = WebServer()

    def release(self) -> None:
        """Gives the jobs back now: the process is about to end."""
        self.stop_now()
        wait([self.answer], RELEASE_SECONDS)

    def summary(self) -> dict[str, Any]:
        ended, seen = self.following, promote.count_waiting(self.options.database)
        oldest = health.oldest_waiting(self.options.database)
        due = [each for each in (seen.next_due_in_seconds, self._next_tick_in_seconds) if each is not None]
        return {
            "done": ended.jobs_done,
            "failed": ended.jobs_failed,
            "released": ended.jobs_released,
            "ready": seen.ready,
            "oldest_seconds": None if oldest is None else round(oldest.seconds, 1),
            "next_due_seconds": round(max(min(due), 0.0), 1) if due else None,
        }

    def _begin_slot(self) -> None:
        name_connections_of_thread(self.id)

    def _make_stand_in(self) -> StandIn:
        return TickBeat(self.heartbeat)

    def _make_housekeeper(self) -> Housekeeper:
        workplace = Workplace(self.options.database, self.id, self.options.lease_for, self.inbox.put)
        self.maintenance = TickHousekeeper(workplace, self._connection)
        return self.maintenance

    def _start(self) -> None:
        """Raises DatabaseAwayError, and django.db.Error where the tables are not there."""
        self._connection()
        super()._start()

    def _start_threads(self) -> None:
        """Does once what the threads of a worker do."""
        self.maintenance.begin_burst(self.deadline.at_most(FIRST_SCHEDULES_SECONDS))
        next_at = self.maintenance.needed_at
        self._next_tick_in_seconds = in_seconds(next_at) if 0.0 < next_at < NEVER else None
        self.stand_in.run()  # which also rescues
        if self.database.ask(lambda it: liveness.is_first_of_its_name(it, self.id, MAINTENANCE_EVERY)):
            seconds = self.deadline.ends_at - time.monotonic()
            self.maintenance.run_once(max(seconds * MAINTENANCE_SHARE, 0.0))

    def _run_timers(self, now: float) -> None:
        if self._server.is_stopping and not self.shutdown.is_asked:  # a planned stop, in half of its patience
            grace = self.shutdown.grace_seconds
            self.shutdown.hurry(self._server.seconds_left(otherwise=2 * grace) / 2)
            self.stop()
        super()._run_timers(now)

    def _leave(self) -> ExitCode:
        self.database.ask(lambda it: liveness.forget(it, FORGOTTEN_AFTER, stopped_named=NAME))
        return super()._leave()

    def _connection(self) -> OwnConnection:
        self.database.wait_for_answers()
        connection = self.database.connection()
        if connection is None:
            raise DatabaseAwayError(self.options.database)
        return connection


class BusyError(PgonlyError):
    """This process is in the middle of a tick."""


class StuckError(PgonlyError):
    """Jobs of earlier ticks still run here, though they were interrupted and given back."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count} jobs of earlier ticks ignore their interruption in this process: give their network calls a "
            "timeout, and restart the process."
        )


_lock = threading.Lock()
_going: TickLoop | None = None
_left: list[threading.Thread] = []


def begin(seconds: float) -> TickLoop:
    """Starts a tick. Raises BusyError, StuckError and ImproperlyConfigured."""
    global _going, _left  # noqa: PLW0603 - facts of the process
    with _lock:
        if _going is not None:
            raise BusyError
        _left = [thread for thread in _left if thread.is_alive()]
        if len(_left) >= LEFT_AT_MOST:
            raise StuckError(len(_left))
        tick = TickLoop(database_of_jobs(), seconds)
        threading.Thread(target=_run, args=[tick], name="pgonly-tick", daemon=True).start()
        _going = tick
    return tick


def _run(tick: TickLoop) -> None:
    try:
        with forked_child.as_worker({}):  # a child that a job forks must not write the job's end
            tick.run()
        tell = partial(tick.answer.set_result, tick.summary())
    except BaseException as error:  # noqa: BLE001 - the request raises or tells it
        tell = partial(tick.answer.set_exception, error)
    with suppress(Exception):  # a connection may break while it is closed
        connections.close_all()
    _end(tick)
    tell()


def _end(tick: TickLoop) -> None:
    global _going  # noqa: PLW0603 - likewise
    with _lock:
        if _going is tick:
            _going = None
        left = tick.slots.alive()
        _left.extend(left)
    if left:
        message = (
            f"A tick has ended, and {len(left)} job(s) that it has given back still run in this process."
        )
        emit("worker.tick_left", message, level=logging.WARNING, threads=len(left))


def _release_at_exit() -> None:
    """Gives the jobs back when the server's process ends in the middle of a tick."""
    if _going is not None:
        _going.release()


def _forget_after_fork() -> None:
    """Resets a forked child, which has neither the tick's thread nor the one that may hold the lock."""
    global _going, _lock, _left
    _going, _lock, _left = None, threading.Lock(), []


call_before_threads_are_joined(_release_at_exit)
os.register_at_fork(after_in_child=_forget_after_fork)
