"""The worker of a tick: one job at a time, on one connection to the queue, for a bounded time, in somebody else's
process. It starts no thread but those that its jobs, Django's signals and schedules need."""

import time
from datetime import timedelta

from pgonly_django.database.connect import OwnConnection
from pgonly_django.exceptions import DatabaseAwayError
from pgonly_django.queue import workers
from pgonly_django.worker.django_connections import name_connections_of_thread
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import ExitCode
from pgonly_django.worker.tick.duties import TickMaintenance
from pgonly_django.worker.tick.server import WebServer

NAME = "tick"
MAINTENANCE_EVERY = timedelta(minutes=5)  # of all ticks together, by the clock
MAINTENANCE_SHARE = 0.25  # of its seconds
FORGOTTEN_AFTER = timedelta(minutes=10)  # a minute may have several ticks, and each leaves a row
BEAT_AGAIN_SECONDS = 1.0  # after a beat that failed


class TickLoop(WorkerLoop):
    maintenance: TickMaintenance

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

    def _make_maintenance(self) -> TickMaintenance:
        return TickMaintenance(self.options.database, self.inbox.put, self._connection)

    def _start(self) -> None:
        """Raises DatabaseAwayError, and django.db.Error where the tables are not there."""
        self._connection()
        super()._start()

    def _start_threads(self) -> None:
        """What threads of a worker do, done once."""
        self.finished_signals.start()
        self.next_tick_in_seconds = self.scheduler.look_once()
        self._beat()  # which also rescues
        if self.database.ask(lambda it: workers.is_first_of_its_name(it, self.id, MAINTENANCE_EVERY)):
            seconds = self.deadline.ends_at - time.monotonic()
            self.maintenance.run_for(max(seconds * MAINTENANCE_SHARE, 0.0))

    def _do_duties(self, now: float) -> None:
        if self._server.is_stopping and not self.shutdown.is_asked:
            self._stop_with_server()
        if now >= self._beat_at:
            self._beat()
        self.maintenance.run_wanted(self.deadline.stop_at)
        super()._do_duties(now)

    def _stop_with_server(self) -> None:
        """A planned stop, whose grace is over when half of the server's patience is."""
        grace = self.shutdown.grace_seconds
        self.shutdown.grace_seconds = min(grace, self._server.seconds_left(otherwise=2 * grace) / 2)
        self.stop()

    def _pause(self, now: float) -> float:
        return min(super()._pause(now), max(self._beat_at - now, 0.0))

    def _beat(self) -> None:
        """The heartbeat of a worker, on the connection of the main loop."""
        is_complete = self.database.ask(self.heartbeat.beat)
        seconds = self.options.heartbeat_seconds
        self._beat_at = time.monotonic() + (seconds if is_complete else min(seconds, BEAT_AGAIN_SECONDS))

    def _leave(self) -> ExitCode:
        self.database.ask(lambda it: workers.forget_stopped(it, NAME, FORGOTTEN_AFTER))
        return super()._leave()

    def _connection(self) -> OwnConnection:
        connection = self.database.connection()
        if connection is None:
            raise DatabaseAwayError(self.options.database)
        return connection
