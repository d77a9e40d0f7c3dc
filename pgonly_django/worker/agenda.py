"""When a worker's loop has what to do next. All times are time.monotonic()."""

from __future__ import annotations

import time
from collections import Counter

from pgonly_django import wake
from pgonly_django.queue.claim import ClaimedJob, Claimer
from pgonly_django.queue.promote import Promotion
from pgonly_django.worker.ear import Ear
from pgonly_django.worker.ledger import Claim
from pgonly_django.worker.options import WorkerOptions

LOOK_AGAIN_SECONDS = wake.COALESCE_SECONDS + 0.002
BLIND_FIRST_PAUSE_SECONDS = 0.05
REFUSED_SECONDS = 0.1
NEVER = float("inf")


class Agenda:
    """The next look for ready jobs and the next promotion of due ones.

    A NOTIFY may stand for others that were held back for COALESCE_SECONDS, so each is followed by a second look.
    """

    def __init__(self, options: WorkerOptions, ear: Ear) -> None:
        self.options = options
        self.ear = ear
        self.drained = False  # the last look, from the head, found no more than it took
        self.busy_at = time.monotonic()
        self._backlog = True
        self._passed_over = (
            False  # the last look had no slot to fill: only queues of short jobs were looked at
        )
        self._look_at = self._promote_at = 0.0
        self._look_again_at = self._promote_again_at = NEVER
        self._refused_until = 0.0
        self._blind_pause = BLIND_FIRST_PAUSE_SECONDS

    # What was heard.

    def hear_ready(self) -> None:
        now = time.monotonic()
        self._look_at, self._look_again_at, self.drained = now, now + LOOK_AGAIN_SECONDS, False

    def hear_due(self) -> None:
        now = time.monotonic()
        self._promote_at, self._promote_again_at = now, now + LOOK_AGAIN_SECONDS

    def look_now(self) -> None:
        """There is a ready job that nobody will be told of: our own doing."""
        self._look_at, self.drained = 0.0, False

    def expect_due(self, in_seconds: float) -> None:
        self._promote_at = min(self._promote_at, time.monotonic() + in_seconds)

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
        """A claim that began then took `jobs`: plan the next."""
        counts = Counter((job.queue, job.priority) for job in jobs)
        self._backlog = len(jobs) >= claim.limit or any(
            count >= claim.rooms.get(queue, claim.free) for (queue, _), count in counts.items()
        )
        self._passed_over = claim.free == 0
        self.drained = claimer.looked_from_head and not self._backlog and not self._passed_over
        if began >= self._look_again_at:
            self._look_again_at = NEVER
        if jobs:
            self.busy_at, self._blind_pause = time.monotonic(), BLIND_FIRST_PAUSE_SECONDS
        from_head = claimer.looked_from_head
        self._look_at = time.monotonic() + self._idle_pause() if from_head else claimer.head_due_at

    def promoted(self, promotion: Promotion, began: float) -> None:
        longest = self.options.longest_pause(listening=self.ear.listens)
        next_due = promotion.next_due_in_seconds
        self._promote_at = time.monotonic() + (longest if next_due is None else min(next_due, longest))
        if began >= self._promote_again_at:
            self._promote_again_at = NEVER
        if promotion.promoted:
            self.look_now()

    def _idle_pause(self) -> float:
        longest = self.options.longest_pause(listening=self.ear.listens)
        if self.ear.listens:
            return longest
        pause = self._blind_pause = min(self._blind_pause * 2, longest)
        return pause
