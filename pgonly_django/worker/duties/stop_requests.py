"""Finds out whether a person wants this worker to stop, or to end once its jobs are done (Worker.objects.stop() and
drain()). The heartbeats ask too, for the case that the NOTIFY was lost."""

import time
from collections.abc import Callable
from uuid import UUID

from pgonly_django.database import notify
from pgonly_django.database.connect import OwnConnection
from pgonly_django.events import emit
from pgonly_django.queue import workers
from pgonly_django.queue.workers import Request
from pgonly_django.worker.poll_timer import NEVER, REFUSED_SECONDS

# A payload for this worker alone, with a Request.
REQUESTED = "requested"
SAID = {
    Request.STOP: "A person has asked this worker to stop: its jobs are given back after the grace.",
    Request.DRAIN: "A person has asked this worker to end once its jobs are done: it claims no more.",
}


class StopRequests:
    """For the main loop alone."""

    def __init__(self, worker_id: UUID, stop: Callable[[], None], drain: Callable[[], None]) -> None:
        self.worker_id = worker_id
        self.next_run = NEVER
        self._obey = {Request.STOP: stop, Request.DRAIN: drain}
        self._obeyed: set[Request] = set()

    def put_off(self) -> None:
        """The database refused: leave it alone for a moment."""
        self.next_run = time.monotonic() + REFUSED_SECONDS

    def hear(self, worker_id: str) -> None:
        """A person has asked something of this worker, or of any."""
        if worker_id in (str(self.worker_id), notify.ANY_WORKER):
            self.next_run = 0.0

    def run_once(self, connection: OwnConnection) -> int:
        self.next_run = NEVER
        request = workers.requested(connection, self.worker_id)
        if request is not None:
            self.take(request)
        return 0

    def take(self, name: str) -> None:
        """One that is unknown, from a newer worker or another program, is left out."""
        for request in Request:
            if request == name and request not in self._obeyed:
                self._obeyed.add(request)
                emit("worker.stop_requested", SAID[request], asked=request.value)
                self._obey[request]()
