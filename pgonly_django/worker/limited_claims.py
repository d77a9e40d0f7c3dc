"""Decides when the main loop looks for limited jobs, and what it keeps free for them. Times are time.monotonic().

A look costs two statements, so it is made only when there may be something: at a NOTIFY that concerns limited jobs,
after the end of a limited job, when a token of a rate or the end of a cool-down is due, and after growing pauses. Where
nothing is limited only the last one is left. Limited jobs and the others take turns at the free slots: after an
ordinary claim that took jobs the next free slot is kept for limited ones, if the last look has seen any.
"""

import logging
import random
import time
from uuid import UUID

from pgonly_django.database import notify
from pgonly_django.database.connect import OwnConnection
from pgonly_django.events import emit
from pgonly_django.queue.claim import UnknownTasks
from pgonly_django.queue.limited.claim import Claimed, LimitedClaimer
from pgonly_django.queue.limited.look import Look
from pgonly_django.queue.limited.turns import Turns
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.timers import NEVER, DatabaseTimer, LookTimer

# The next try when another claim was at a gate: one takes a few milliseconds.
CONTENDED_SECONDS = (0.005, 0.020)
# The least time from one look to the next without a reason: tokens of a fast rate, the next part of the keys.
SOON_SECONDS = 0.010
# The next part of the keys comes no sooner than REST * d after a look that took d seconds. While no slot is free
# no look at all comes before BUSY_REST * d, also after a NOTIFY. So the looks of a busy worker take a tenth of the main
# loop's time at most. One takes 3 to 8 ms: 2,500 full keys (13 looks) hide another for about a second, and 10,000 for
# 5 s at most.
REST, BUSY_REST = 2, 9
# While something waits for the end of a job elsewhere, whose worker may die before it tells of it.
FULL_SECONDS = 5.0
# While slots are kept free for a heavy job, which another worker may have taken.
OVERDUE_SECONDS = 1.0


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

    def ask(self, connection: OwnConnection) -> bool:
        notify.send(connection, notify.limited(notify.ANY_QUEUE))
        self.at, self._told_at = NEVER, time.monotonic()
        return True


class LimitedClaims(LookTimer):
    def __init__(
        self, options: WorkerOptions, worker_id: UUID, database: WorkerConnection, unknown: UnknownTasks
    ) -> None:
        super().__init__(options, database.listener)
        self.options = options
        turns = Turns(options.queues)
        self.claimer = LimitedClaimer(worker_id, options.lease_for, options.threads, turns, unknown)
        self.notice = RoomNotice(database)
        self.has_more = False  # which the last look has seen, and no slot was free
        # When time alone lets a job through that waits: a token, or the end of a cool-down. As of the last look.
        self.opens_at = NEVER
        self._rests_until = 0.0  # while no slot is free
        self._limited: set[str] = set()  # the queues that have a limit, as of the last look
        self._overdue_slots = 0
        self._is_our_turn = False
        self._named: set[str] = set()  # tasks that are too heavy, and were named

    def hear_queue(self, kind: str, queue: str) -> None:
        """Called for a NOTIFY of a queue that this worker serves."""
        if kind == notify.LIMITED or queue == notify.ANY_QUEUE or queue in self._limited:
            self.hear()

    def hear(self) -> None:
        super().hear()
        self.claimer.turns.begin_rounds()

    def wake(self) -> None:
        super().wake()
        self.claimer.turns.begin_rounds()

    def note_end(self) -> None:
        """Notes that a limited job of ours has ended: there is room, for us and for others."""
        self.wake()
        self.notice.want()

    def note_ordinary_claim(self, jobs: int) -> None:
        self._is_our_turn = self._is_our_turn or jobs > 0

    @property
    def kept_free(self) -> int:
        """The number of slots that the ordinary claim leaves alone."""
        return self._overdue_slots or int(self.has_more and self._is_our_turn)

    def next_look(self, free_slots: int) -> float:
        if self.has_more and free_slots >= max(self._overdue_slots, 1):
            return self.not_before
        return self.due_at if free_slots > 0 else max(self.due_at, self._rests_until)

    def claim(
        self, connection: OwnConnection, free_slots: int, *, jobs_at_most: float, take_suspect: bool
    ) -> Claimed:
        """Looks, and claims for `free_slots`. Without any, it learns whether to keep one free. Raises psycopg.Error."""
        began = time.monotonic()
        seen = self.claimer.look(connection, free_slots, take_suspect=take_suspect)
        claimed = self.claimer.claim(
            connection, seen, free_slots, jobs_at_most=jobs_at_most, take_suspect=take_suspect
        )
        self._plan(seen, claimed, free_slots, began)
        self._name_too_heavy(seen)
        return claimed

    def _plan(self, seen: Look, claimed: Claimed, free_slots: int, began: float) -> None:
        self._limited = set(seen.gates)
        self._overdue_slots = seen.overdue_slots if seen.overdue_slots > free_slots else 0
        left = free_slots - sum(claimed.slots.values())
        self.has_more = bool(seen.groups) and (left <= 0 or self._overdue_slots > 0)
        if free_slots > 0:
            self._is_our_turn = False
        now = time.monotonic()
        rest = (REST if free_slots > 0 else BUSY_REST) * (now - began)
        self._rests_until = now + rest
        self.drained = not (claimed.jobs or claimed.was_contended or seen.is_cut or self.has_more)
        if self.drained and not (self.options.queues or seen.is_for_others):
            self.notice.at = NEVER  # no other worker could use the room
        if claimed.jobs:
            self._pauses.restart()
        self.opens_at = NEVER if seen.opens_in_seconds is None else now + seen.opens_in_seconds
        if claimed.was_contended:
            self.not_before = now + random.uniform(*CONTENDED_SECONDS)  # noqa: S311 - no secret
        self.plan(now + self._pause(seen, claimed, left, rest), began=began)

    def _pause(self, seen: Look, claimed: Claimed, left: int, rest: float) -> float:
        """Returns the seconds until the next look. Where keys are left it does not wait for a free slot: only a look
        that finds a job has one kept free."""
        if left > 0 and (claimed.jobs or claimed.was_contended):
            return 0.0
        if seen.is_cut:
            return max(SOON_SECONDS, rest)
        pauses = [self._pauses.next()]
        if seen.opens_in_seconds is not None:
            pauses.append(max(seen.opens_in_seconds, SOON_SECONDS))
        if seen.has_full:
            pauses.append(FULL_SECONDS)
        if self._overdue_slots:
            pauses.append(OVERDUE_SECONDS)
        return min(pauses)

    def _name_too_heavy(self, seen: Look) -> None:
        for group in seen.too_heavy:
            if group.task not in self._named:
                self._named.add(group.task)
                message = (
                    f"{group.task} takes {group.slots} slots, and this worker has --threads {self.options.threads}: "
                    "it leaves such jobs to workers with more."
                )
                facts = {"task": group.task, "slots": group.slots, "queue": group.queue}
                emit("worker.task_too_heavy", message, level=logging.WARNING, **facts)
