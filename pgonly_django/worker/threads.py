"""The threads that serve a worker: heartbeat, maintenance, schedules."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from django.db import InterfaceError, OperationalError, connections

from pgonly_django.conf import settings
from pgonly_django.database import notify
from pgonly_django.events import TakesEvents
from pgonly_django.worker.batches import BatchCloser
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.duties import declare, duties
from pgonly_django.worker.heartbeat import Heartbeat
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.inbox import WAKE, Notification, Tell
from pgonly_django.worker.maintenance import Maintenance
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.run_counter import RunCounter
from pgonly_django.worker.scheduler import Scheduler

START_SECONDS, PAUSE_SECONDS = 30.0, 0.5


class Threads:
    """The threads, used by the main loop, whose messages `tell` takes."""

    def __init__(
        self, worker_id: UUID, options: WorkerOptions, in_flight: InFlight, main: WorkerConnection, tell: Tell
    ) -> None:
        self._database, self._main, self.stats = options.database, main, RunCounter()
        self.heartbeat = Heartbeat(worker_id, options, in_flight, self.stats, main, tell)
        self.maintenance = Maintenance(options.database, duties(), tell)
        self.batches = BatchCloser(options.database, tell, main if options.burst else None)
        self.scheduler = Scheduler(worker_id, options, main.listener, lambda: tell(Notification(WAKE)))

    def declare_queues(self, is_over: Callable[[], bool]) -> None:
        """Declares the queues before the first claim. The workers that run already may not know of the limits. It waits
        for a database that is unavailable, at most START_SECONDS, and not once `is_over`."""
        give_up_at = time.monotonic() + START_SECONDS
        while not is_over():
            try:
                declare(self._database)
            except (OperationalError, InterfaceError):
                connections[self._database].close()
                if time.monotonic() >= give_up_at:
                    raise
                time.sleep(PAUSE_SECONDS)
            else:
                if settings().queues:
                    self._main.ask(lambda it: notify.send(it, notify.limited(notify.ANY_QUEUE)))
                return

    def start(self, takes_events: TakesEvents) -> None:
        """Starts the threads. `takes_events`: for those of them that may not wait for a handler of the log."""
        for each in (self.heartbeat, self.maintenance, self.batches):
            each.takes_events = takes_events
        for thread in (self.heartbeat, self.maintenance, self.scheduler):
            thread.start()

    def sleep(self) -> None:
        """Closes every connection, until wake(). The heartbeat sleeps already."""
        for thread in (self.maintenance, self.scheduler):
            thread.sleep()

    def wake(self) -> None:
        for thread in (self.heartbeat, self.maintenance, self.scheduler):
            thread.wake()

    def begin_burst(self, seconds: float) -> None:
        """A burst does what is due already, and not what is due later."""
        self.scheduler.has_looked.wait(seconds)
        self.scheduler.end()
        self.batches.want(notify.ANY_BATCH)

    @staticmethod
    def join(seconds: float, thread: Heartbeat | Maintenance | Scheduler | BatchCloser) -> None:
        if thread.is_alive():
            thread.join(seconds)

    def end(self) -> None:
        for thread in (self.heartbeat, self.maintenance, self.scheduler, self.batches):
            thread.end()
