"""Decides what a worker may claim now, and when it looks for jobs next. Times are time.monotonic().

There are two looks. The *ordinary* one is a claim (queue/claim.py), which travels with the ends of jobs. The *limited*
one (queue/limited/) costs two statements, so it is made only when there may be something: at a NOTIFY that concerns
limited jobs, after the end of a limited job, when a token of a rate or the end of a cool-down is due, and after growing
pauses. Where nothing is limited only the last one is left. Limited jobs and the others take turns at the free slots:
after an ordinary claim that took jobs the next free slot is kept for limited ones, if the last look has seen any.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Collection, Sequence
from uuid import UUID

from pgonly_django.context.run import Run, lease_end
from pgonly_django.database import notify
from pgonly_django.database.connect import OwnConnection
from pgonly_django.events import emit
from pgonly_django.models.job import State
from pgonly_django.models.job_rows import SUSPECT_FROM
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.claim import HEAD_DUTY, Claim, ClaimedJob, Claimer
from pgonly_django.queue.finish import Finish
from pgonly_django.queue.limited.claim import Claimed, LimitedClaimer
from pgonly_django.queue.limited.look import Look
from pgonly_django.queue.limited.turns import Turns
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.exchange import ExchangeResult
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.stopping import Deadline, Shutdown
from pgonly_django.worker.timers import NEVER, ClaimTimer, Delivery, Promotion, RoomNotice

AHEAD_SECONDS = 0.2  # the buffer of prefetched jobs holds at most this much work
AHEAD_LIMIT = 500
SMOOTHING = 0.1
# A claim is made when less than this share of what may be held is there; beside another claim, when less is there or
# may come with it. Each takes at most half of what may be ahead, so that two of them keep the server busy.
REFILL_BELOW, REFILL_BESIDE_BELOW = 0.5, 0.6
# While limited jobs wait for a slot, which comes when the buffer has run down.
SHARE_BESIDE_LIMITED = 0.1
WALKED_SECONDS = 5.0  # at most
# The next try when another claim was at a gate: one takes a few milliseconds.
CONTENDED_SECONDS = (0.005, 0.020)
# The least time from one limited look to the next without a reason: tokens of a fast rate, the next part of the keys.
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


class ClaimPlan:
    """The plan of one worker: its slots, the jobs that it may hold beyond them, --max-jobs, and its two looks. Only the
    main loop changes it; any thread may read `is_closed`, `spare_slots` and `threads`."""

    def __init__(
        self, options: WorkerOptions, worker_id: UUID, database: WorkerConnection, in_flight: InFlight,
        shutdown: Shutdown, deadline: Deadline,
    ) -> None:  # fmt: skip
        self._options, self._worker_id, self._database = options, str(worker_id), database
        self._in_flight, self._shutdown, self._deadline = in_flight, shutdown, deadline
        self.threads = options.threads
        of_process = NEVER if options.max_jobs_per_process is None else options.max_jobs_per_process
        of_all = NEVER if options.max_jobs is None else options.max_jobs
        self.jobs_left = min(of_all, of_process)
        self._is_replaced = of_process < of_all
        lease_for, queues = options.lease_for, options.queues
        self.claimer = Claimer(worker_id, lease_for, queues, left_early=deadline.left_early)
        self.limited_claimer = LimitedClaimer(
            worker_id, lease_for, self.threads, Turns(queues), self.claimer.unknown
        )
        self.ordinary, self.limited = ClaimTimer(options, database), ClaimTimer(options, database)
        self.delivery = Delivery(database, self.look_now)
        self.promotion = Promotion(options, database, self.look_now, self.delivery.wake)
        self.room_notice = RoomNotice(database)
        self.busy_at = time.monotonic()  # when it last had a job
        self._run_seconds: dict[str, float] = {}  # the moving average of each queue
        # As of the last limited look: the queues that have a limit, the slots to keep free for a heavy job that has
        # waited long, and when time alone lets a job through that waits (a token, or the end of a cool-down).
        self._limited_queues: set[str] = set()
        self._overdue_slots = 0
        self._opens_at = NEVER
        self._is_turn_of_limited = False
        self._named: set[str] = set()  # tasks that are too heavy, and were named

    # What may be claimed now.

    def drain(self) -> None:
        """Claims no more."""
        self.jobs_left = -NEVER

    @property
    def is_closed(self) -> bool:
        """Whether the worker is about to end, or has to when its jobs have ended."""
        return self._shutdown.is_asked or self.jobs_left <= 0 or self._deadline.claims_nothing

    @property
    def is_used_up(self) -> bool:
        """Whether it has claimed the jobs of --max-jobs-per-process: a fresh process takes its place."""
        return self._is_replaced and -NEVER < self.jobs_left <= 0

    @property
    def spare_slots(self) -> int:
        """The number of jobs of one slot that may start, besides the slots that are kept free for limited jobs."""
        return int(max(min(self._idle_slots, self.jobs_left) - self._kept_free, 0))

    def may_claim_now(self, under_way: Collection[Claim] = ()) -> Claim | None:
        """Returns what to claim together with the ends of an exchange, whose jobs occupy no slot any more, beside the
        claims that are `under_way`."""
        return self._claim(under_way) if time.monotonic() >= self.ordinary.next_at(self.spare_slots) else None

    def claim_limited(self) -> list[Run]:
        """Looks for limited jobs, and claims some. Without a free slot, it learns whether to keep one free."""
        began = time.monotonic()
        claimed = self._database.ask(self._claim_limited_on)
        if claimed is None:
            self.limited.put_off()
            return []
        runs = self._runs_of(claimed.jobs, began)
        for run in runs:
            run.slots, run.is_limited = claimed.slots[run.job.id], True
        return runs

    # When the next look is.

    def next_look(self) -> float:
        ordinary = NEVER if self._claim(()) is None else self.ordinary.next_at(self.spare_slots)
        return min(ordinary, self.next_limited_look())

    def next_limited_look(self) -> float:
        return NEVER if self.is_closed else self.limited.next_at(self._idle_slots)

    @property
    def next_known(self) -> float:
        """The time when something may start that no NOTIFY tells of, as far as is known."""
        return min(self.promotion.next_job_at, self.delivery.due_at, self._opens_at)

    @property
    def found_nothing(self) -> bool:
        """Whether the last looks found nothing."""
        return self.ordinary.is_drained and self.limited.is_drained

    # What it is told.

    def begin(self) -> None:
        """Called when the worker has started, which does not count as time without jobs."""
        self.busy_at = time.monotonic()

    def restart(self) -> None:
        """Called after a sleep."""
        for timer in (self.ordinary, self.limited, self.promotion):
            timer.restart()

    def look_now(self) -> None:
        self.ordinary.wake()
        self.limited.wake()

    def look_from_head(self) -> None:
        """Makes the next claim a head claim, since only that finds the next suspect, which may be claimed now."""
        self.claimer.look_from_head_next()
        self.look_now()

    def serves(self, queue: str) -> bool:
        """Returns whether a NOTIFY concerns this worker. One of a due job or of an event names no `queue`."""
        return not self._options.queues or queue in ("", notify.ANY_QUEUE, *self._options.queues)

    def hear(self, kind: str, queue: str) -> None:
        """Called for a NOTIFY of a queue that this worker serves, of a job that is scheduled now, or of an event."""
        if kind == notify.EVENT:
            self.delivery.hear()
        elif kind == notify.DUE:
            self.promotion.hear()
        elif kind == notify.READY:
            self.ordinary.hear()
        if kind == notify.LIMITED or queue == notify.ANY_QUEUE or queue in self._limited_queues:
            self.limited.hear()

    def take(self, result: ExchangeResult) -> list[Run]:
        """Takes the result of an exchange. Returns the claimed runs, and plans the next claim: see queue/claim.py."""
        if result.was_refused:
            self.ordinary.put_off()
        if result.claim is None:
            return []
        claim, jobs, began, now = result.claim, result.jobs, result.began, time.monotonic()
        if jobs:
            self.busy_at = now
            self._is_turn_of_limited = True
            self.ordinary.begin_pauses()
        has_backlog = len(jobs) >= claim.limit or _fills_a_band(claim, jobs)
        if not has_backlog and self.claimer.unknown.names():
            # It may have walked over many jobs that it leaves to others (10,000: 10 ms).
            self.ordinary.put_off(min(HEAD_DUTY * (now - began), WALKED_SECONDS))
        self.ordinary.looked(
            began, now + self.ordinary.pause() if claim.from_head else self.claimer.head_due_at,
            # Without a free slot it was for queues of short jobs only.
            saw_all=claim.from_head and not has_backlog and claim.free_slots > 0,
            more_from=0 if has_backlog else 1 if claim.free_slots == 0 else NEVER,
        )  # fmt: skip
        return self._runs_of(jobs, began)

    def note_run_seconds(self, queue: str, seconds: float) -> None:
        """Called when an ordinary job of this queue has run for so many seconds."""
        known = self._run_seconds.get(queue)
        self._run_seconds[queue] = seconds if known is None else known + SMOOTHING * (seconds - known)

    def forget_run_seconds(self, queue: str) -> None:
        """Called when jobs of this queue were claimed ahead and had to be given back: they are not that short."""
        self._run_seconds.pop(queue, None)

    def pass_over(self, job_id: str) -> None:
        """Called when a run has left for lack of time: no claim of this process takes its job again."""
        self._deadline.left_early.add(job_id)

    def note_end(self, run: Run, finish: Finish | None) -> None:
        """Called when the end of a job is written, or it belongs to another worker (`finish` None)."""
        self.busy_at = time.monotonic()
        if self._deadline.ends_at < NEVER:
            self._deadline.note_end(run)
        if run.started_at is None:
            self.jobs_left += 1
        if run.is_limited:  # there is room, for us and for others
            self.limited.wake()
            self.room_notice.want()
        if run.job.crashes >= SUSPECT_FROM:
            self.look_from_head()
        if finish is None:
            return
        if finish.state is State.READY:
            self.ordinary.wake()
        elif finish.state is State.SCHEDULED:
            self.promotion.expect_due(finish.delay_seconds or 0.0)
        if finish.outcome is Outcome.WAITING:
            self.promotion.wake()  # its event may have come while it left its run
            if not self._is_replaced:
                self.jobs_left += 1  # --max-jobs counts the run that continues after the last wait

    # How it decides.

    @property
    def _idle_slots(self) -> int:
        return max(self.threads - self._in_flight.slots_taken, 0)

    @property
    def _kept_free(self) -> int:
        """The number of slots that the ordinary claim leaves alone."""
        return self._overdue_slots or int(self.limited.has_more and self._is_turn_of_limited)

    def _claim(self, under_way: Collection[Claim]) -> Claim | None:
        """Returns an ordinary claim that is worth its round trip: a slot is free, or the buffer of prefetched jobs has
        run down. Beside a heavy job, and where slots are kept free, nothing is prefetched, or too many slots would be
        in use. There, and where single jobs count, there is one claim at a time."""
        may_prefetch = not (self._kept_free or self._in_flight.has_heavy)
        if self.is_closed or (under_way and not (may_prefetch and self.jobs_left == NEVER)):
            return None
        expected = sum(claim.limit for claim in under_way)
        held = self._in_flight.slots_taken + expected
        aheads = self._aheads() if may_prefetch else {}
        below = REFILL_BESIDE_BELOW if under_way else REFILL_BELOW
        if held >= max(self.threads, (self.threads + max(aheads.values(), default=0)) * below):
            return None
        wanted = {queue: self.threads + min(ahead - held, ahead // 2) for queue, ahead in aheads.items()}
        limits = {queue: int(min(limit, self.jobs_left)) for queue, limit in wanted.items() if limit > 0}
        free_slots = self._free_beside(limits, under_way) if limits else self.spare_slots - expected
        if free_slots <= 0 and not limits:
            return None
        return Claim(
            max(free_slots, 0), limits, take_suspect=not (under_way or self._in_flight.has_suspect),
            from_head=self.claimer.is_head_due,
        )  # fmt: skip

    def _aheads(self) -> dict[str, int]:
        """Returns the queues whose jobs are known to be short, with how many of each to hold beyond the slots."""
        share = SHARE_BESIDE_LIMITED if self.limited.has_more else 1.0
        aheads = {
            queue: int(min(AHEAD_SECONDS / max(seconds, 1e-6), AHEAD_LIMIT) * share)
            for queue, seconds in self._run_seconds.items()
        }
        return {queue: ahead for queue, ahead in aheads.items() if ahead > 0}

    def _free_beside(self, prefetched: Collection[str], under_way: Collection[Claim]) -> int:
        """Returns how many jobs of other queues than the `prefetched` ones may be claimed. Short jobs, which are over
        in a moment, leave them their slots, or other queues would never get one beside a queue that is always full."""
        others = self._in_flight.going_except(prefetched, AHEAD_SECONDS)
        others += sum(claim.free_slots for claim in under_way)
        return int(min(self.threads - others, self.jobs_left))

    def _runs_of(self, jobs: Sequence[ClaimedJob], claimed_at: float) -> list[Run]:
        """Returns the runs of a claim that was sent at `claimed_at`."""
        self.jobs_left -= len(jobs)
        options, now, until = self._options, time.monotonic(), lease_end(claimed_at, self._options.lease_for)
        return [Run(job, options.database, now, until, options.name, self._worker_id, self) for job in jobs]

    # The limited look.

    def _claim_limited_on(self, connection: OwnConnection) -> Claimed:
        began, claimer, free_slots = time.monotonic(), self.limited_claimer, self._idle_slots
        take_suspect = not self._in_flight.has_suspect
        if self.limited.was_told:
            claimer.turns.begin_rounds()
        seen = claimer.look(connection, free_slots, take_suspect=take_suspect)
        claimed = claimer.claim(
            connection, seen, free_slots, jobs_at_most=self.jobs_left, take_suspect=take_suspect
        )
        self._plan_limited(seen, claimed, free_slots, began)
        self._name_too_heavy(seen)
        return claimed

    def _plan_limited(self, seen: Look, claimed: Claimed, free_slots: int, began: float) -> None:
        now = time.monotonic()
        self._limited_queues = set(seen.gates)
        self._opens_at = NEVER if seen.opens_in_seconds is None else now + seen.opens_in_seconds
        self._overdue_slots = seen.overdue_slots if seen.overdue_slots > free_slots else 0
        left = free_slots - sum(claimed.slots.values())
        has_more = bool(seen.groups) and (left <= 0 or self._overdue_slots > 0)
        saw_all = not (claimed.jobs or claimed.was_contended or seen.is_cut or has_more)
        if free_slots > 0:
            self._is_turn_of_limited = False
        if saw_all and not (self._options.queues or seen.is_for_others):
            self.room_notice.drop()  # no other worker could use the room
        if claimed.jobs:
            self.limited.begin_pauses()
        if claimed.was_contended:
            self.limited.put_off(random.uniform(*CONTENDED_SECONDS))  # noqa: S311 - no secret
        rest = (REST if free_slots > 0 else BUSY_REST) * (now - began)
        self.limited.looked(
            began, now + self._limited_pause(seen, claimed, left, rest), saw_all=saw_all,
            more_from=max(self._overdue_slots, 1) if has_more else NEVER, rests_until=now + rest,
        )  # fmt: skip

    def _limited_pause(self, seen: Look, claimed: Claimed, left: int, rest: float) -> float:
        """Returns the seconds until the next look. Where keys are left it does not wait for a free slot: only a look
        that finds a job has one kept free."""
        if left > 0 and (claimed.jobs or claimed.was_contended):
            return 0.0
        if seen.is_cut:
            return max(SOON_SECONDS, rest)
        pauses = [self.limited.pause()]
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
                    f"{group.task} takes {group.slots} slots, and this worker has --threads {self.threads}: "
                    "it leaves such jobs to workers with more."
                )
                facts = {"task": group.task, "slots": group.slots, "queue": group.queue}
                emit("worker.task_too_heavy", message, level=logging.WARNING, **facts)


def _fills_a_band(claim: Claim, jobs: list[ClaimedJob]) -> bool:
    counts = Counter((job.queue, job.priority) for job in jobs)
    return any(count >= claim.limit_of(queue) for (queue, _), count in counts.items())
