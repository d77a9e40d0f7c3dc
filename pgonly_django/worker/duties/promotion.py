"""Makes scheduled jobs ready at exactly the moment when they are due."""

import time

from pgonly_django.database.connect import OwnConnection
from pgonly_django.queue.promote import promote
from pgonly_django.worker.limited_claims import LimitedClaims
from pgonly_django.worker.listener import JobsListener
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.poll_timer import LOOK_AGAIN_SECONDS, NEVER, REFUSED_SECONDS, Pauses, PollTimer


class Promotion:
    def __init__(
        self, options: WorkerOptions, listener: JobsListener, poll_timer: PollTimer, limited: LimitedClaims
    ) -> None:
        self.poll_timer = poll_timer
        self.limited = limited
        self._pauses = Pauses(options, listener)
        self._due_at = NEVER  # as far as is known
        self._run_at = self._refused_until = 0.0
        self._run_again_at = NEVER

    @property
    def next_run(self) -> float:
        return max(min(self._run_at, self._run_again_at), self._refused_until)

    @property
    def due_at(self) -> float:
        """Of the next scheduled job, as far as is known."""
        return self._due_at

    def put_off(self) -> None:
        """The database refused: leave it alone for a moment."""
        self._refused_until = time.monotonic() + REFUSED_SECONDS

    def hear_due(self) -> None:
        """Another process has scheduled a job."""
        now = time.monotonic()
        self._run_at, self._run_again_at = now, now + LOOK_AGAIN_SECONDS
        self._pauses.restart()

    def expect_due(self, in_seconds: float) -> None:
        """We have scheduled a job."""
        self._due_at = min(self._due_at, time.monotonic() + in_seconds)
        self._run_at = min(self._run_at, self._due_at)

    def wake(self) -> None:
        """After a sleep: see worker/sleep.py."""
        self._pauses.restart()
        self._run_at = min(self._due_at, time.monotonic() + self._pauses.next())

    def run_once(self, connection: OwnConnection) -> int:
        began = time.monotonic()
        promoted, next_due_in_seconds = promote(connection)
        now = time.monotonic()
        if promoted or began >= self._due_at:
            self._pauses.restart()
        self._due_at = NEVER if next_due_in_seconds is None else now + next_due_in_seconds
        self._run_at = min(self._due_at, now + self._pauses.next())
        if began >= self._run_again_at:
            self._run_again_at = NEVER
        if promoted:
            self.poll_timer.look_now()
            self.limited.look_now()
        return promoted
