"""When a worker's loop has what to do next. All times are time.monotonic()."""

from __future__ import annotations

import time
from collections import Counter

from pgonly_django.database import notify
from pgonly_django.queue.claim import Claim, ClaimedJob, Claimer
from pgonly_django.queue.promote import Promotion
from pgonly_django.worker.listener import Listener
from pgonly_django.worker.options import WorkerOptions

LOOK_AGAIN_SECONDS = notify.COALESCE_SECONDS + 0.002
# After what was heard or found the pauses between looks grow to the longest, by these factors with LISTEN and without:
# a row that somebody had locked when it was looked for is not told of when its lock goes. The second look after a
# NOTIFY takes the first of the pauses, so that the next come 1, 5 and 21 seconds later.
FIRST_PAUSE_SECONDS, GROWTH = 0.25, 4
BLIND_FIRST_PAUSE_SECONDS, BLIND_GROWTH = 0.1, 2
REFUSED_SECONDS = 0.1
NEVER = float("inf")


class PollTimer:
    """The next look for ready jobs and the next promotion of due ones.

    A NOTIFY may stand for others that were held back for COALESCE_SECONDS, so each is followed by a second look, and
    that by ever rarer ones.
    """

    def __init__(self, options: WorkerOptions, listener: Listener) -> None:
        self.options = options
        self.listener = listener
        self.drained = False  # the last look, from the head, found no more than it took
        self.busy_at = time.monotonic()
        self._backlog = True
        self._passed_over = (
            False  # the last look had no slot to fill: only queues of short jobs were looked at
        )
        self._look_at = self._promote_at = 0.0
        self._look_again_at = self._promote_again_at = NEVER
        self._refused_until = 0.0
        self._due_at = NEVER  # as far as is known
        self._look_pause = self._promote_pause = self._first_pause

    # What was heard.

    def hear_ready(self) -> None:
        now = time.monotonic()
        self._look_at, self._look_again_at, self.drained = now, now + LOOK_AGAIN_SECONDS, False
        self._look_pause = self._first_pause

    def hear_due(self) -> None:
        now = time.monotonic()
        self._promote_at, self._promote_again_at = now, now + LOOK_AGAIN_SECONDS
        self._promote_pause = self._first_pause

    def look_now(self) -> None:
        """There is a ready job that nobody will be told of: our own doing."""
        self._look_at, self.drained = 0.0, False

    def expect_due(self, in_seconds: float) -> None:
        self._due_at = min(self._due_at, time.monotonic() + in_seconds)
        self._promote_at = min(self._promote_at, self._due_at)

    # What is due.

    def look_is_due(self, now: float, *, has_slot: bool) -> bool:
        return now >= self.next_look(has_slot=has_slot)

    def promotion_is_due(self, now: float) -> bool:
        return now >= self.next_promotion

    def next_look(self, *, has_slot: bool) -> float:
        if self._backlog or (self._passed_over and has_slot):
            return self._refused_until
        return max(min(self._look_at, self._look_again_at), self._refused_until)

    @property
    def next_promotion(self) -> float:
        return max(min(self._promote_at, self._promote_again_at), self._refused_until)

    @property
    def idle_seconds(self) -> float:
        return time.monotonic() - self.busy_at

    # What came of it.

    def refused(self) -> None:
        """The database would not have it now, a whole table being locked, say: leave it alone for a moment."""
        self._refused_until = time.monotonic() + REFUSED_SECONDS

    def looked(self, jobs: list[ClaimedJob], claim: Claim, claimer: Claimer, began: float) -> None:
        """A claim that began then took `jobs`: plan the next. For what few or no jobs mean see queue/claim.py."""
        counts = Counter((job.queue, job.priority) for job in jobs)
        self._backlog = len(jobs) >= claim.limit or any(
            count >= claim.limit_of(queue) for (queue, _), count in counts.items()
        )
        self._passed_over = claim.free_slots == 0
        self.drained = claimer.looked_from_head and not self._backlog and not self._passed_over
        if began >= self._look_again_at:
            self._look_again_at = NEVER
        if jobs:
            self.busy_at, self._look_pause = time.monotonic(), self._first_pause
        if claimer.looked_from_head:
            self._look_at = time.monotonic() + self._look_pause
            self._look_pause = self._longer(self._look_pause)
        else:
            self._look_at = claimer.head_due_at

    def promoted(self, promotion: Promotion, began: float) -> None:
        now, next_due = time.monotonic(), promotion.next_due_in_seconds
        if promotion.promoted or began >= self._due_at:
            self._promote_pause = self._first_pause
        self._due_at = NEVER if next_due is None else now + next_due
        self._promote_at = min(self._due_at, now + self._promote_pause)
        self._promote_pause = self._longer(self._promote_pause)
        if began >= self._promote_again_at:
            self._promote_again_at = NEVER
        if promotion.promoted:
            self.look_now()

    @property
    def _first_pause(self) -> float:
        return self._at_most(FIRST_PAUSE_SECONDS if self.listener.listens else BLIND_FIRST_PAUSE_SECONDS)

    def _longer(self, pause: float) -> float:
        return self._at_most(pause * (GROWTH if self.listener.listens else BLIND_GROWTH))

    def _at_most(self, pause: float) -> float:
        return min(pause, self.options.longest_pause(listening=self.listener.listens))
