"""The worker of a tick: one job at a time, on one connection to the queue, for a bounded time, in somebody else's
process. It starts no thread but those that its jobs, Django's signals and schedules need."""

import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import connections

from pgonly_django.database.connect import OwnConnection
from pgonly_django.exceptions import DatabaseAwayError
from pgonly_django.queue import liveness
from pgonly_django.worker.django_connections import name_connections_of_thread
from pgonly_django.worker.duties import duties
from pgonly_django.worker.inbox import Tell
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.maintenance import Maintenance, tried
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import ExitCode
from pgonly_django.worker.threads import Threads

NAME = "tick"
MAINTENANCE_EVERY = timedelta(minutes=5)  # of all ticks together, by the clock
MAINTENANCE_SHARE = 0.25  # of its seconds
FORGOTTEN_AFTER = timedelta(minutes=10)  # a minute may have several ticks, and each leaves a row
BEAT_AGAIN_SECONDS = 1.0  # after a beat that failed


class Until(threading.Event):
    """An event that is set at a time of time.monotonic() at the latest."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = at

    def is_set(self) -> bool:
        return super().is_set() or time.monotonic() >= self.at

    def wait(self, timeout: float | None = None) -> bool:
        left = max(self.at - time.monotonic(), 0.0)
        super().wait(left if timeout is None else min(timeout, left))
        return self.is_set()


class TickMaintenance(Maintenance):
    """The same duties as a worker's, in the thread of the tick. `connection` is that of the tick, or raises."""

    hurried_seconds = 0.0

    def __init__(self, alias: str, tell: Tell, connection: Callable[[], OwnConnection]) -> None:
        super().__init__(alias, duties(alias, tell), tell)
        self._of_tick = connection

    def run_for(self, seconds: float) -> None:
        """All duties once. What is too much for these seconds is left for the next time."""
        self._over = Until(time.monotonic() + seconds)
        self.run_once()

    def run_wanted(self, until: float) -> None:
        """Those that run_soon() asked for."""
        if self._hurried:
            self._over = Until(until)
            self._run_hurried()
            self._close()

    def _open(self) -> OwnConnection:
        return self._of_tick()

    def _close(self) -> None:
        tried("Closing Django's connections", connections.close_all)


class WebServer:
    """Whether the web server of this process was told to stop. gunicorn and uvicorn tell their requests nothing: they
    wait for them, and then end without running any exit function. Their handler of SIGTERM is a method of what knows.
    Another server never stops."""

    def __init__(self) -> None:
        self._owner: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if self.is_stopping:  # gunicorn with --max-requests waits for this last one
            self._owner = None

    @property
    def is_stopping(self) -> bool:
        """For any thread."""
        return (
            getattr(self._owner, "alive", True) is False or getattr(self._owner, "should_exit", False) is True
        )

    def seconds_left(self, otherwise: float) -> float:
        """For how long it waits for its requests after SIGTERM; `otherwise` where it sets no limit."""
        config = getattr(self._owner, "config", None)
        # gunicorn's worker for uvicorn gives a method of its own as this callback, and gunicorn kills all the same.
        worker = getattr(getattr(config, "callback_notify", None), "__self__", self._owner)
        of_gunicorn = getattr(getattr(worker, "cfg", None), "graceful_timeout", None)
        of_uvicorn = getattr(config, "timeout_graceful_shutdown", None)
        return min((float(each) for each in (of_gunicorn, of_uvicorn) if each is not None), default=otherwise)


class TickLoop(WorkerLoop):
    def __init__(self, alias: str, seconds: float) -> None:
        """Raises ImproperlyConfigured."""
        options = WorkerOptions(
            database=alias, name=NAME, threads=1, burst=True, listen=False, max_seconds=seconds
        )
        super().__init__(options)
        self.slots.begin_thread = lambda: name_connections_of_thread(self.id)
        self.next_tick_in_seconds: float | None = None  # of a schedule
        self._beat_at = 0.0
        self._server = WebServer()

    def _make_threads(self) -> Threads:
        threads = super()._make_threads()
        self.maintenance = TickMaintenance(self.options.database, self.inbox.put, self._connection)
        threads.maintenance = self.maintenance
        return threads

    def _start(self) -> None:
        """Raises DatabaseAwayError, and django.db.Error where the tables are not there."""
        self._connection()
        super()._start()

    def _start_threads(self) -> None:
        """What threads of a worker do, done once."""
        self.next_tick_in_seconds = self.threads.scheduler.look_once()
        self._beat()  # which also rescues
        if self.database.ask(lambda it: liveness.is_first_of_its_name(it, self.id, MAINTENANCE_EVERY)):
            seconds = self.deadline.ends_at - time.monotonic()
            self.maintenance.run_for(max(seconds * MAINTENANCE_SHARE, 0.0))

    def _run_timers(self, now: float) -> None:
        if self._server.is_stopping and not self.shutdown.is_asked:
            self._stop_with_server()
        if now >= self._beat_at:
            self._beat()
        self.maintenance.run_wanted(self.deadline.stop_at)
        super()._run_timers(now)

    def _stop_with_server(self) -> None:
        """A planned stop, whose grace is over when half of the server's patience is."""
        grace = self.shutdown.grace_seconds
        self.shutdown.grace_seconds = min(grace, self._server.seconds_left(otherwise=2 * grace) / 2)
        self.stop()

    def _pause(self, now: float) -> float:
        return min(super()._pause(now), max(self._beat_at - now, 0.0))

    def _beat(self) -> None:
        """The heartbeat of a worker, on the connection of the main loop."""
        is_complete = self.database.ask(self.threads.heartbeat.beat)
        seconds = self.options.heartbeat_seconds
        self._beat_at = time.monotonic() + (seconds if is_complete else min(seconds, BEAT_AGAIN_SECONDS))

    def _leave(self) -> ExitCode:
        self.database.ask(lambda it: liveness.forget_stopped(it, NAME, FORGOTTEN_AFTER))
        return super()._leave()

    def _connection(self) -> OwnConnection:
        connection = self.database.connection()
        if connection is None:
            raise DatabaseAwayError(self.options.database)
        return connection
