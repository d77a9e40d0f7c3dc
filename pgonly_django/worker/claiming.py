"""Decides what a worker claims, and when: its capacity, what it prefetches, and when it looks at the database."""

import time
from collections import Counter
from collections.abc import Collection
from uuid import UUID

from pgonly_django.context.run import Run, lease_end
from pgonly_django.database import notify
from pgonly_django.queue.claim import DUTY, Claim, ClaimedJob, Claimer
from pgonly_django.worker.connection import JobsListener, WorkerConnection
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.limited_claims import LimitedClaims
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.stopping import Deadline, Shutdown
from pgonly_django.worker.timers import NEVER, Delivery, LookTimer, Promotion

AHEAD_SECONDS = 0.2  # the buffer of prefetched jobs holds at most this much work
AHEAD_LIMIT = 500
SMOOTHING = 0.1
# A claim is made when less than this share of what may be held is there; beside another claim, when less is there or
# may come with it. Each takes at most half of what may be ahead, so that two of them keep the server busy.
REFILL_BELOW, REFILL_BESIDE_BELOW = 0.5, 0.6
# While limited jobs wait for a slot, which comes when the buffer has run down.
SHARE_BESIDE_LIMITED = 0.1
WALKED_SECONDS = 5.0  # at most


class Prefetch:
    """How many jobs to claim beyond the free slots: none, except of queues whose jobs are known to be short. It keeps
    the moving average of each queue's run times."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._average: dict[str, float] = {}

    def note(self, queue: str, seconds: float) -> None:
        known = self._average.get(queue)
        self._average[queue] = seconds if known is None else known + SMOOTHING * (seconds - known)

    def forget(self, queue: str) -> None:
        """Forgets the run times: its jobs are not that short, since what was claimed ahead had to be given back."""
        self._average.pop(queue, None)

    def ahead(self, queue: str) -> int:
        """Returns how many jobs of `queue` to hold beyond the slots."""
        average = self._average.get(queue)
        return 0 if average is None else min(int(AHEAD_SECONDS / max(average, 1e-6)), AHEAD_LIMIT)

    def limits(self, held: int, share: float = 1.0) -> dict[str, int]:
        """Returns, by queue of short jobs, how many to claim, with this `share` of what may be ahead."""
        aheads = {queue: int(self.ahead(queue) * share) for queue in self._average}
        return {
            queue: self.threads + min(ahead - held, ahead // 2)
            for queue, ahead in aheads.items()
            if ahead > 0
        }

    def wants_more(self, held: int, expected: int = 0, share: float = 1.0) -> bool:
        """Returns whether a claim is worth its round trip: a slot is free, or the buffer has run down. `expected`: how
        many jobs the claims that are under way may bring."""
        if held + expected < self.threads:
            return True
        most = int(max((self.ahead(queue) for queue in self._average), default=0) * share)
        below = REFILL_BESIDE_BELOW if expected else REFILL_BELOW
        return most > 0 and held + expected < (self.threads + most) * below


class PollTimer(LookTimer):
    """The next look for ready jobs. `drained`: the last one, a head claim, found fewer than it may take."""

    def __init__(self, options: WorkerOptions, listener: JobsListener) -> None:
        super().__init__(options, listener)
        self.busy_at = time.monotonic()
        self._has_backlog = True
        self._had_no_slot = False  # at the last look, which was for queues of short jobs only

    def next_look(self, *, has_slot: bool) -> float:
        if self._has_backlog or (self._had_no_slot and has_slot):
            return self.not_before
        return self.due_at

    def looked(self, jobs: list[ClaimedJob], claim: Claim, claimer: Claimer, began: float) -> None:
        """Plans the claim after one that began then and took `jobs`: see queue/claim.py."""
        now = time.monotonic()
        self._has_backlog = len(jobs) >= claim.limit or _fills_a_band(claim, jobs)
        self._had_no_slot = claim.free_slots == 0
        has_seen_all = claimer.looked_from_head and not self._has_backlog and not self._had_no_slot
        self.drained = has_seen_all and began >= self.woken_at
        if jobs:
            self.busy_at = now
            self._pauses.restart()
        if not self._has_backlog and claimer.unknown.names():
            # It may have walked over many jobs that it leaves to others (10,000: 10 ms).
            self.not_before = now + min(DUTY * (now - began), WALKED_SECONDS)
        next_at = now + self._pauses.next() if claimer.looked_from_head else claimer.head_due_at
        self.plan(next_at, began=began)


def _fills_a_band(claim: Claim, jobs: list[ClaimedJob]) -> bool:
    counts = Counter((job.queue, job.priority) for job in jobs)
    return any(count >= claim.limit_of(queue) for (queue, _), count in counts.items())


class Claims:
    """The claims of one worker: what makes them, and when each is due. For the main loop alone."""

    def __init__(self, options: WorkerOptions, worker_id: UUID, database: WorkerConnection) -> None:
        self._options, self._worker_id = options, str(worker_id)
        self.claimer = Claimer(worker_id, options.lease_for, options.queues)
        self.limited = LimitedClaims(options, worker_id, database, self.claimer.unknown)
        self.poll_timer = PollTimer(options, database.listener)
        self.delivery = Delivery(database, self.look_now)
        self.promotion = Promotion(options, database, self.look_now, self.delivery.wake)
        self.prefetch = Prefetch(options.threads)

    def look_now(self) -> None:
        self.poll_timer.wake()
        self.limited.wake()

    def look_from_head(self) -> None:
        """Makes the next claim a head claim, since only that finds the next suspect, which may be claimed now."""
        self.claimer.look_from_head_next()
        self.look_now()

    def serve(self, queue: str) -> bool:
        return not self._options.queues or queue == notify.ANY_QUEUE or queue in self._options.queues

    def hear(self, kind: str, queue: str) -> None:
        """Called for a NOTIFY of a queue that this worker serves."""
        self.limited.hear_queue(kind, queue)
        if kind == notify.READY:
            self.poll_timer.hear()

    def hear_due(self, kind: str) -> None:
        """Called for a NOTIFY of a job that is scheduled now, or of an event."""
        (self.delivery if kind == notify.EVENT else self.promotion).hear()

    def runs_of(
        self, jobs: list[ClaimedJob], claimed_at: float, slots: dict[str, int] | None = None
    ) -> list[Run]:
        """Returns the runs of a claim that was sent at `claimed_at`. `slots`: of limited jobs, by their ids."""
        options, now, until = self._options, time.monotonic(), lease_end(claimed_at, self._options.lease_for)
        runs = [Run(job, options.database, now, until, options.name, self._worker_id) for job in jobs]
        if slots is not None:
            for run in runs:
                run.slots, run.is_limited = slots[run.job.id], True
        return runs

    def restart(self) -> None:
        """Called after a sleep."""
        for timer in (self.poll_timer, self.limited, self.promotion):
            timer.restart()

    @property
    def found_nothing(self) -> bool:
        """Whether the last looks found nothing."""
        return self.poll_timer.drained and self.limited.drained


class Capacity:
    """How many more jobs a worker may claim: slots, prefetch, --max-jobs and --max-jobs-per-process, and whether it
    claims at all. Only the main loop changes it; any thread may read `is_closed` and `has_free_slot`."""

    def __init__(
        self, options: WorkerOptions, in_flight: InFlight, claims: Claims, shutdown: Shutdown, deadline: Deadline,
    ) -> None:  # fmt: skip
        self._in_flight, self._limited, self._prefetch = in_flight, claims.limited, claims.prefetch
        self._shutdown, self._deadline, self.threads = shutdown, deadline, options.threads
        of_process = NEVER if options.max_jobs_per_process is None else options.max_jobs_per_process
        of_all = NEVER if options.max_jobs is None else options.max_jobs
        self.jobs_left = min(of_all, of_process)
        self._is_replaced = of_process < of_all
        in_flight.capacity = self

    def drain(self) -> None:
        """Claims no more."""
        self.jobs_left = -NEVER

    def note_wait(self) -> None:
        """Called when a job has left its run to wait: --max-jobs counts the run that continues after its last wait.
        The process has run it all the same."""
        if not self._is_replaced:
            self.jobs_left += 1

    @property
    def is_closed(self) -> bool:
        """Whether the worker is about to end, or has to when its jobs have ended."""
        return self._shutdown.is_asked or self.jobs_left <= 0 or self._deadline.claims_nothing

    @property
    def is_used_up(self) -> bool:
        """Whether it has claimed the jobs of --max-jobs-per-process: a fresh process takes its place."""
        return self._is_replaced and -NEVER < self.jobs_left <= 0

    @property
    def idle_slots(self) -> int:
        return max(self.threads - self._in_flight.slots_taken, 0)

    @property
    def free_slots(self) -> int:
        """The number of jobs of one slot that may start."""
        return int(max(min(self.idle_slots, self.jobs_left), 0))

    @property
    def has_free_slot(self) -> bool:
        """Whether a slot is free besides those that are kept free for a limited job."""
        return self.free_slots > self._limited.kept_free

    def wants_more(self, expected: int = 0) -> bool:
        """Returns whether an ordinary claim is worth its round trip. Where slots are kept free it takes only the
        others, and beside a heavy job only those that are free."""
        if self._limited.kept_free or self._in_flight.has_heavy:
            return self.has_free_slot
        return self._prefetch.wants_more(self._in_flight.slots_taken, expected, self._prefetch_share)

    @property
    def _prefetch_share(self) -> float:
        return SHARE_BESIDE_LIMITED if self._limited.has_more else 1.0

    def claim(self, under_way: Collection[Claim] = ()) -> Claim | None:
        """Returns what to claim together with the ends of an exchange, whose jobs occupy no slot any more, beside the
        claims that are `under_way`. Where single jobs count there is one claim at a time."""
        expected = sum(claim.limit for claim in under_way)
        if self.is_closed or not self.wants_more(expected):
            return None
        kept = self._limited.kept_free
        is_alone = not (kept or self._in_flight.has_heavy)
        if under_way and not (is_alone and self.jobs_left == NEVER):
            return None
        held = self._in_flight.slots_taken + expected
        limits = self._prefetch.limits(held, self._prefetch_share) if is_alone else {}
        limits_left = {queue: int(min(limit, self.jobs_left)) for queue, limit in limits.items() if limit > 0}
        free_slots = (
            self._free_beside(limits_left, under_way) if limits_left else self.free_slots - kept - expected
        )
        if free_slots <= 0 and not limits_left:
            return None
        return Claim(
            max(free_slots, 0), limits_left, take_suspect=not (under_way or self._in_flight.has_suspect)
        )

    def _free_beside(self, prefetched: Collection[str], under_way: Collection[Claim]) -> int:
        """Returns how many jobs of other queues than the `prefetched` ones may be claimed. Short jobs, which are over
        in a moment, leave them their slots, or other queues would never get one beside a queue that is always full."""
        others = self._in_flight.going_except(prefetched, AHEAD_SECONDS) + sum(
            claim.free_slots for claim in under_way
        )
        return int(min(self.threads - others, self.jobs_left))
