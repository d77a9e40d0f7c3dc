"""Finds out which of the running jobs somebody wants cancelled."""

import time

from pgonly_django.database.connect import OwnConnection
from pgonly_django.queue.lease import cancel_requested
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.listener import JobsListener
from pgonly_django.worker.poll_timer import NEVER, REFUSED_SECONDS
from pgonly_django.worker.watchdog import Watchdog

BLIND_INTERVAL_SECONDS = 1.0  # without LISTEN, while jobs run


class CancelRequests:
    def __init__(self, in_flight: InFlight, listener: JobsListener, watchdog: Watchdog) -> None:
        self.in_flight = in_flight
        self.listener = listener
        self.watchdog = watchdog
        self._run_at = 0.0

    @property
    def next_run(self) -> float:
        return self._run_at if self.in_flight.runs else NEVER

    def put_off(self) -> None:
        """The database refused: leave it alone for a moment."""
        self._run_at = time.monotonic() + REFUSED_SECONDS

    def hear_cancel(self) -> None:
        self._run_at = 0.0

    def run_once(self, connection: OwnConnection) -> int:
        wanted = cancel_requested(connection, list(self.in_flight.runs))
        for job_id in wanted:
            self.in_flight.runs[job_id].cancel_requested = True
            self.watchdog.run_soon()
        self._run_at = NEVER if self.listener.listens else time.monotonic() + BLIND_INTERVAL_SECONDS
        return len(wanted)
