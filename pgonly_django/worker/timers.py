"""The times at which the main loop does things. All times are time.monotonic().

A NOTIFY may stand for others that were held back for COALESCE_SECONDS, so a second look follows each, and after that
ever rarer ones: NOTIFY tells of new rows, but not of a row that was locked at the look and is free by now.
"""

import time
from collections.abc import Callable

from pgonly_django.database import notify
from pgonly_django.database.connect import OwnConnection
from pgonly_django.queue.promote import promote
from pgonly_django.queue.waits import Delivered, deliver
from pgonly_django.worker.connection import JobsListener, WorkerConnection
from pgonly_django.worker.options import WorkerOptions

NEVER = float("inf")
LOOK_AGAIN_SECONDS = notify.COALESCE_SECONDS + 0.002
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.1, 1.0  # of a delivery that met locked rows
REFUSED_SECONDS = 0.1  # for which a database that refused a statement is left alone
# The first pause between two looks, and how much longer the next ones are, with LISTEN and without. The second look
# after a NOTIFY takes the first of the pauses, so that the next looks come 1, 5 and 21 seconds later.
FIRST_PAUSE_SECONDS, GROWTH = 0.25, 4
BLIND_FIRST_PAUSE_SECONDS, BLIND_GROWTH = 0.1, 2


class Timer:
    """The time when something is due. `again_at` is the second look after a NOTIFY; never before `not_before`."""

    def __init__(self, at: float = 0.0) -> None:
        self.at = at
        self.again_at, self.not_before = NEVER, 0.0
        self.woken_at = 0.0

    @property
    def due_at(self) -> float:
        return max(min(self.at, self.again_at), self.not_before)

    def wake(self) -> None:
        self.at, self.woken_at = 0.0, time.monotonic()

    def hear(self) -> None:
        """Called when a NOTIFY has come."""
        now = time.monotonic()
        self.at, self.again_at = now, now + LOOK_AGAIN_SECONDS

    def plan(self, at: float, *, began: float) -> None:
        """Notes that it was done, from `began` on, and is due again at `at`, or now if it was woken since."""
        if began >= self.woken_at:
            self.at = at
        if began >= self.again_at:
            self.again_at = NEVER

    def put_off(self) -> None:
        """Leaves it alone for a moment, because the database refused."""
        self.not_before = time.monotonic() + REFUSED_SECONDS

    def run(self) -> None:
        raise NotImplementedError


class DatabaseTimer(Timer):
    """A timer of something that is done on the connection that claims."""

    def __init__(self, database: WorkerConnection, at: float = 0.0) -> None:
        super().__init__(at)
        self.database = database

    def run(self) -> None:
        if self.database.ask(self.ask) is None:
            self.put_off()

    def ask(self, connection: OwnConnection) -> object:
        """Does it. Returns something else than None. Raises psycopg.Error."""
        raise NotImplementedError


class Pauses:
    """Growing pauses, up to the longest that the options allow."""

    def __init__(self, options: WorkerOptions, listener: JobsListener) -> None:
        self._options, self._listener = options, listener
        self.restart()

    def restart(self) -> None:
        self._next = FIRST_PAUSE_SECONDS if self._listener.listens else BLIND_FIRST_PAUSE_SECONDS

    def next(self) -> float:
        listens = self._listener.listens
        pause = min(self._next, self._options.longest_pause(listening=listens))
        self._next = pause * (GROWTH if listens else BLIND_GROWTH)
        return pause


class LookTimer(Timer):
    """The next look for jobs that may start."""

    def __init__(self, options: WorkerOptions, listener: JobsListener) -> None:
        super().__init__()
        self.drained = False  # the last look has found all that this worker may take now
        self._pauses = Pauses(options, listener)

    def hear(self) -> None:
        super().hear()
        self.drained = False
        self._pauses.restart()

    def wake(self) -> None:
        """Makes a look due: there may be a job that no NOTIFY tells of, by the worker's own doing."""
        super().wake()
        self.drained = False

    def restart(self) -> None:
        """Called after a sleep."""
        self._pauses.restart()
        self.wake()


class Promotion(DatabaseTimer):
    """Makes scheduled jobs ready at exactly the moment when they are due, and then calls `look`. It calls `deliver`
    where it finds events that are not delivered."""

    def __init__(
        self, options: WorkerOptions, database: WorkerConnection, look: Callable[[], None],
        deliver: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(database)
        self._look, self._deliver = look, deliver
        self._pauses = Pauses(options, database.listener)
        self.next_job_at = NEVER  # as far as is known

    def hear(self) -> None:
        """Called when another process has scheduled a job."""
        super().hear()
        self._pauses.restart()

    def expect_due(self, in_seconds: float) -> None:
        """Called when this process has scheduled a job."""
        self.next_job_at = min(self.next_job_at, time.monotonic() + in_seconds)
        self.at = min(self.at, self.next_job_at)

    def restart(self) -> None:
        """Called after a sleep."""
        self._pauses.restart()
        self.at = min(self.next_job_at, time.monotonic() + self._pauses.next())

    def ask(self, connection: OwnConnection) -> int:
        began = time.monotonic()
        promoted, next_due_in_seconds, has_events = promote(connection)
        now = time.monotonic()
        if promoted or began >= self.next_job_at:
            self._pauses.restart()
        self.next_job_at = NEVER if next_due_in_seconds is None else now + next_due_in_seconds
        self.plan(min(self.next_job_at, now + self._pauses.next()), began=began)
        if promoted:
            self._look()
        if has_events:
            self._deliver()
        return promoted


class Delivery(DatabaseTimer):
    """Wakes the jobs whose event has come, and then calls `look`. It is due when a NOTIFY or a promotion says so, and
    soon again while rows of such jobs are locked."""

    def __init__(self, database: WorkerConnection, look: Callable[[], None]) -> None:
        super().__init__(database, NEVER)
        self._look = look
        self._pause = FIRST_RETRY_SECONDS

    def ask(self, connection: OwnConnection) -> Delivered:
        began = time.monotonic()
        delivered = deliver(connection)
        self.plan(began if delivered.is_full else self._again_at(delivered), began=began)
        if delivered.jobs:
            self._look()
        return delivered

    def _again_at(self, delivered: Delivered) -> float:
        if not delivered.left:
            self._pause = FIRST_RETRY_SECONDS
            return NEVER
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_RETRY_SECONDS)
        return time.monotonic() + pause
