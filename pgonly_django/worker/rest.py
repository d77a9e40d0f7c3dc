"""When a worker rests: it has nothing to do and waits for a NOTIFY. It keeps one connection, and sends one statement
every IDLE_BEAT_SECONDS. Times are time.monotonic().

It begins to rest a lease after it last held a job or heard of one. By then it is sure that the claims of all others
will be told to it (queue/claim_locks.py), so that it need not look at leases. A worker that hears "holding" looks at
them again, every quarter of a lease, until no job runs. While a worker of a version lives that does not tell, none of
this version rests. So the jobs of a dead worker are rescued within 75 s as long as one worker is awake, at rest or not.
Without LISTEN a worker never rests.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum, auto
from uuid import UUID

from pgonly_django.conf import IDLE_BEAT_SECONDS
from pgonly_django.database.connect import OwnConnection
from pgonly_django.events import emit
from pgonly_django.queue import claim_locks, workers
from pgonly_django.queue.workers import IdleBeat
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.duties.duty import BUSY_SECONDS
from pgonly_django.worker.duties.promotion import Promotion
from pgonly_django.worker.duties.stop_requests import REQUESTED
from pgonly_django.worker.heartbeat import Heartbeat
from pgonly_django.worker.limited_claims import LimitedClaims
from pgonly_django.worker.maintenance import Maintenance
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.poll_timer import NEVER, PollTimer
from pgonly_django.worker.slots import Slots

# After a rest its other threads wake so much later: first of all comes the claim.
WAKE_OTHERS_SECONDS = 0.05
BEAT_AGAIN_SECONDS = 1.0  # after a beat that left no trace in the worker's row


class Phase(Enum):
    AWAKE = auto()
    CHECKING = auto()  # claims are told to us from now on; the maintenance thread looks whether it is needed
    RESTING = auto()


class Rest:
    """For the main loop alone. `is_idle` says whether the loop has nothing to do; `tell` takes payloads for it."""

    def __init__(
        self, worker_id: UUID, options: WorkerOptions, database: WorkerConnection,
        timers: tuple[PollTimer, LimitedClaims, Promotion], threads: tuple[Heartbeat, Maintenance], slots: Slots,
        is_idle: Callable[[], bool], tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.worker_id, self.database, self.is_idle, self.tell = worker_id, database, is_idle, tell
        self.poll_timer, self.limited, self.promotion = timers
        self.heartbeat, self.maintenance = threads
        self._resting = (*timers, *threads, slots, database)  # all that stands still
        self.next_run = self._quiet_since = time.monotonic()
        self._phase = Phase.AWAKE
        self._has_heard = False
        self._locked: OwnConnection | None = None  # the connection that may have the lock RESTING
        self._lease_for, self._quiet_seconds = options.lease_for, options.lease_for.total_seconds()
        self._look_seconds = options.heartbeat_seconds
        self._beat_seconds = min(IDLE_BEAT_SECONDS, options.longest_pause(listening=True))
        database.on_back = self._note_back

    @property
    def is_resting(self) -> bool:
        return self._phase is Phase.RESTING

    def hear(self) -> None:
        """There may be something to do, or another worker begins to hold jobs."""
        self._has_heard = True
        if self._phase is Phase.RESTING:
            self.end()

    def end(self) -> None:
        self._phase = Phase.AWAKE
        self._quiet_since = now = time.monotonic()
        self.next_run = now + WAKE_OTHERS_SECONDS
        for timer in (self.poll_timer, self.limited, self.promotion):
            timer.wake()

    def sleep(self) -> None:
        """The main connection is closed, and the lock went with it. Nothing is due before end()."""
        self._phase, self._locked, self.next_run = Phase.AWAKE, None, NEVER
        self.heartbeat.rest()
        self.maintenance.sleep()

    def run_once(self) -> None:
        """Take the step that is due."""
        now = time.monotonic()
        if self._phase is Phase.RESTING:
            self._beat(now)
            return
        self.heartbeat.wake()
        self.heartbeat.stand_in(self.database)
        self.maintenance.wake()
        if self._has_heard or not self.is_idle():
            self._has_heard, self._quiet_since = False, now
        self.next_run = now + self._look_seconds
        if now - self._quiet_since < self._quiet_seconds:
            self._stay_awake()
        elif self._phase is Phase.AWAKE and self.database.ask(self.database.claim_lock.give_up):
            self._begin()

    # How it begins.

    def _begin(self) -> None:
        """First be told of all claims from now on; then see that no job runs, and that no duty is needed."""
        self._give_up_lock()
        if not self._can_listen or self._locked is not None:
            return
        beat = self.database.listening.ask(self._take_lock)
        if beat is None or beat.some_running or beat.some_do_not_tell or not beat.was_written:
            self._give_up_lock()
            return
        self._phase = Phase.CHECKING
        self.maintenance.check()

    @property
    def _can_listen(self) -> bool:
        """As far as is known without asking, it may rest."""
        heartbeat = self.heartbeat
        is_well = heartbeat.is_resting or not (heartbeat.some_running or heartbeat.database.is_away)
        return is_well and self.database.listener.reaches_postgres

    def _take_lock(self, connection: OwnConnection) -> IdleBeat | None:
        self._locked = connection
        if not claim_locks.take_resting(connection):
            return None
        return workers.idle_beat(connection, self.worker_id, self._lease_for)

    def note_checked(self, *, is_calm: bool) -> None:
        """The maintenance thread has looked."""
        if self._phase is not Phase.CHECKING:
            return
        if self._has_heard or not self.is_idle():
            self._stay_awake()
        elif is_calm:
            self._rest()
        else:
            self._stay_awake()
            self.next_run = time.monotonic() + BUSY_SECONDS

    def _rest(self) -> None:
        self._phase = Phase.RESTING
        self.next_run = time.monotonic() + self._beat_seconds
        for each in self._resting:
            each.rest()
        emit("worker.resting", "Nothing to do: resting until a NOTIFY comes.", level=logging.DEBUG)

    # How it goes on, and ends.

    def _beat(self, now: float) -> None:
        """Say that we live, and look for what came without a NOTIFY."""
        listening = self.database.listening
        beat = listening.ask(self._ask)
        if beat is None or beat.some_running or beat.some_do_not_tell:
            self.end()
            return
        if beat.request is not None:
            self.tell(f"{REQUESTED} {beat.request}")
        if not beat.was_written:
            listening.ask(lambda connection: workers.register(connection, self.heartbeat.facts()))
        if beat.next_due_in_seconds is not None:
            self.promotion.expect_due(beat.next_due_in_seconds)
        if beat.some_ready:
            self.poll_timer.look_now()
            self.limited.look_now()
        self.next_run = now + (self._beat_seconds if beat.was_written else BEAT_AGAIN_SECONDS)

    def _ask(self, connection: OwnConnection) -> IdleBeat | None:
        """None on another connection than that on which it began to rest: something may have gone unheard."""
        return (
            workers.idle_beat(connection, self.worker_id, self._lease_for)
            if connection is self._locked
            else None
        )

    def _note_back(self) -> None:
        """The connection was lost, and is open again. Others may have been cut off too, and be about to return."""
        self._locked = None
        if self.heartbeat.is_resting:
            self.heartbeat.rescue.wait_until_settled()
            self.heartbeat.wake(at_once=True)
        self.hear()

    def _stay_awake(self) -> None:
        self._phase = Phase.AWAKE
        self._give_up_lock()

    def _give_up_lock(self) -> None:
        """Where it cannot be given up now, another try comes with the next step: until then claims are told to us."""
        locked = self._locked

        def give_up(connection: OwnConnection) -> bool:
            return connection is not locked or claim_locks.give_up_resting(connection)

        if locked is not None and (locked.closed or self.database.listening.ask(give_up)):
            self._locked = None
