"""When to look at the database: for ready jobs, and (see duties/promotion.py) for due ones. Times are time.monotonic().

A NOTIFY may stand for others that were held back for COALESCE_SECONDS, so a second look follows each, and after that
ever rarer ones: NOTIFY tells of new rows, but not of a row that was locked at the look and is free by now.
"""

import time
from collections import Counter

from pgonly_django.database import notify
from pgonly_django.queue.claim import DUTY, Claim, ClaimedJob, Claimer
from pgonly_django.worker.listener import JobsListener
from pgonly_django.worker.options import WorkerOptions

LOOK_AGAIN_SECONDS = notify.COALESCE_SECONDS + 0.002
# The first pause between two looks, and how much longer the next ones are, with LISTEN and without. The second look
# after a NOTIFY takes the first of the pauses, so that the next looks come 1, 5 and 21 seconds later.
FIRST_PAUSE_SECONDS, GROWTH = 0.25, 4
BLIND_FIRST_PAUSE_SECONDS, BLIND_GROWTH = 0.1, 2
REFUSED_SECONDS = 0.1
WALKED_SECONDS = 5.0  # at most
NEVER = float("inf")


class Pauses:
    """Growing pauses, up to the longest that the options allow."""

    def __init__(self, options: WorkerOptions, listener: JobsListener) -> None:
        self._options = options
        self._listener = listener
        self.restart()

    def restart(self) -> None:
        self._next = FIRST_PAUSE_SECONDS if self._listener.listens else BLIND_FIRST_PAUSE_SECONDS

    def next(self) -> float:
        listens = self._listener.listens
        pause = min(self._next, self._options.longest_pause(listening=listens))
        self._next = pause * (GROWTH if listens else BLIND_GROWTH)
        return pause


class PollTimer:
    """The next look for ready jobs."""

    def __init__(self, options: WorkerOptions, listener: JobsListener) -> None:
        self.drained = False  # the last look, a head claim, found fewer jobs than it may take
        self.busy_at = time.monotonic()
        self._pauses = Pauses(options, listener)
        self._has_backlog = True
        self._had_no_slot = False  # at the last look, which was for queues of short jobs only
        self._look_at = self._refused_until = 0.0
        self._look_again_at = NEVER

    def hear_ready(self) -> None:
        now = time.monotonic()
        self._look_at, self._look_again_at, self.drained = now, now + LOOK_AGAIN_SECONDS, False
        self._pauses.restart()

    def look_now(self) -> None:
        """There is a ready job that no NOTIFY tells us of: our own doing."""
        self._look_at, self.drained = 0.0, False

    def wake(self) -> None:
        """After a sleep: see worker/sleep.py."""
        self._pauses.restart()
        self.look_now()

    def next_look(self, *, has_slot: bool) -> float:
        if self._has_backlog or (self._had_no_slot and has_slot):
            return self._refused_until
        return max(min(self._look_at, self._look_again_at), self._refused_until)

    def put_off(self) -> None:
        """The database refused the claim, a whole table being locked, say: leave it alone for a moment."""
        self._refused_until = time.monotonic() + REFUSED_SECONDS

    def looked(self, jobs: list[ClaimedJob], claim: Claim, claimer: Claimer, began: float) -> None:
        """A claim that began then took `jobs`: plan the next. For what few or no jobs mean see queue/claim.py."""
        now = time.monotonic()
        self._has_backlog = len(jobs) >= claim.limit or _fills_a_band(claim, jobs)
        self._had_no_slot = claim.free_slots == 0
        self.drained = claimer.looked_from_head and not self._has_backlog and not self._had_no_slot
        if began >= self._look_again_at:
            self._look_again_at = NEVER
        if jobs:
            self.busy_at = now
            self._pauses.restart()
        if not self._has_backlog and claimer.unknown.names():
            # It may have walked over many jobs that it leaves to others (10,000: 10 ms).
            self._refused_until = now + min(DUTY * (now - began), WALKED_SECONDS)
        self._look_at = now + self._pauses.next() if claimer.looked_from_head else claimer.head_due_at


def _fills_a_band(claim: Claim, jobs: list[ClaimedJob]) -> bool:
    counts = Counter((job.queue, job.priority) for job in jobs)
    return any(count >= claim.limit_of(queue) for (queue, _), count in counts.items())
