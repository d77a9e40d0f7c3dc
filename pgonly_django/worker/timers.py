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
from pgonly_django.worker.connection import WorkerConnection
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

    def put_off(self, seconds: float = REFUSED_SECONDS) -> None:
        """Leaves it alone for so many seconds, as after the database has refused."""
        self.not_before = time.monotonic() + seconds

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


class LookTimer(DatabaseTimer):
    """Looks at the database. While they find nothing the pauses between them grow, up to the longest that the options
    allow."""

    def __init__(self, options: WorkerOptions, database: WorkerConnection) -> None:
        super().__init__(database)
        self._options = options
        self.begin_pauses()

    def hear(self) -> None:
        super().hear()
        self.begin_pauses()

    def restart(self) -> None:
        """Called after a sleep."""
        self.begin_pauses()
        self.wake()

    def begin_pauses(self) -> None:
        """Called when there is something to find: the next pause is the shortest."""
        self._next_pause = (
            FIRST_PAUSE_SECONDS if self.database.listener.listens else BLIND_FIRST_PAUSE_SECONDS
        )

    def pause(self) -> float:
        """Returns the seconds until the next look."""
        listens = self.database.listener.listens
        pause = min(self._next_pause, self._options.longest_pause(listening=listens))
        self._next_pause = pause * (GROWTH if listens else BLIND_GROWTH)
        return pause


class ClaimTimer(LookTimer):
    """The next look for jobs that may start: see worker/claim_plan.py, which makes it."""

    was_told = True  # since the last look, that there may be a job
    _saw_all = False  # as of the last look
    _more_from = NEVER  # with this number of free slots more may be taken at once, as of the last look
    _rests_until = 0.0  # while no slot is free

    @property
    def is_drained(self) -> bool:
        """Whether the last look has found all that this worker may take now."""
        return self._saw_all and not self.was_told

    @property
    def has_more(self) -> bool:
        return self._more_from < NEVER

    def hear(self) -> None:
        super().hear()
        self.was_told = True

    def wake(self) -> None:
        """Makes a look due: there may be a job that no NOTIFY tells of, by the worker's own doing."""
        super().wake()
        self.was_told = True

    def next_at(self, free_slots: int) -> float:
        if free_slots >= self._more_from:
            return self.not_before
        return self.due_at if free_slots > 0 else max(self.due_at, self._rests_until)

    def looked(
        self, began: float, at: float, *, saw_all: bool, more_from: float, rests_until: float = 0.0
    ) -> None:
        """Plans the look after one that began then. It is due `at` this time, if it was not woken since."""
        self.was_told = began < self.woken_at
        self._saw_all, self._more_from, self._rests_until = saw_all, more_from, rests_until
        self.plan(at, began=began)


class RoomNotice(DatabaseTimer):
    """Tells the other workers that there is room for a limited job, at most once in COALESCE_SECONDS."""

    def __init__(self, database: WorkerConnection) -> None:
        super().__init__(database, NEVER)
        self._told_at = 0.0

    @property
    def is_wanted(self) -> bool:
        return self.at < NEVER

    def want(self) -> None:
        self.at = min(self.at, self._told_at + notify.COALESCE_SECONDS)

    def drop(self) -> None:
        self.at = NEVER

    def ask(self, connection: OwnConnection) -> bool:
        notify.send(connection, notify.limited(notify.ANY_QUEUE))
        self.at, self._told_at = NEVER, time.monotonic()
        return True


class Promotion(LookTimer):
    """Makes scheduled jobs ready at exactly the moment when they are due, and then calls `look`. It calls `deliver`
    where it finds events that are not delivered."""

    def __init__(
        self, options: WorkerOptions, database: WorkerConnection, look: Callable[[], None],
        deliver: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(options, database)
        self._look, self._deliver = look, deliver
        self.next_job_at = NEVER  # as far as is known

    def expect_due(self, in_seconds: float) -> None:
        """Called when this process has scheduled a job."""
        self.next_job_at = min(self.next_job_at, time.monotonic() + in_seconds)
        self.at = min(self.at, self.next_job_at)

    def restart(self) -> None:
        """Called after a sleep."""
        self.begin_pauses()
        self.at = min(self.next_job_at, time.monotonic() + self.pause())

    def ask(self, connection: OwnConnection) -> int:
        began = time.monotonic()
        promoted, next_due_in_seconds, has_events = promote(connection)
        now = time.monotonic()
        if promoted or began >= self.next_job_at:
            self.begin_pauses()
        self.next_job_at = NEVER if next_due_in_seconds is None else now + next_due_in_seconds
        self.plan(min(self.next_job_at, now + self.pause()), began=began)
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
