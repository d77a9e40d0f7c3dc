"""The threads that look after a worker: heartbeat, maintenance, schedules."""

from __future__ import annotations

from uuid import UUID

from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.duties import duties
from pgonly_django.worker.heartbeat import Heartbeat
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.inbox import WAKE, Notification, Tell
from pgonly_django.worker.maintenance import Maintenance
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.run_counter import RunCounter
from pgonly_django.worker.scheduler import Scheduler


class Threads:
    """For the main loop, which `tell` tells something."""

    def __init__(
        self, worker_id: UUID, options: WorkerOptions, in_flight: InFlight, stats: RunCounter, main: WorkerConnection,
        tell: Tell,
    ) -> None:  # fmt: skip
        self.heartbeat = Heartbeat(worker_id, options, in_flight, stats, main, tell)
        self.maintenance = Maintenance(options.database, duties(options.database, tell), tell)
        self.scheduler = Scheduler(worker_id, options, main.listener, lambda: tell(Notification(WAKE)))

    def start(self) -> None:
        for thread in (self.heartbeat, self.maintenance, self.scheduler):
            thread.start()

    def sleep(self) -> None:
        """Close every connection, until wake()."""
        for thread in (self.heartbeat, self.maintenance, self.scheduler):
            thread.sleep()

    def wake(self) -> None:
        for thread in (self.heartbeat, self.maintenance, self.scheduler):
            thread.wake()

    @staticmethod
    def join(seconds: float, thread: Heartbeat | Maintenance | Scheduler) -> None:
        if thread.is_alive():
            thread.join(seconds)

    def end(self) -> None:
        for thread in (self.heartbeat, self.maintenance, self.scheduler):
            thread.end()
