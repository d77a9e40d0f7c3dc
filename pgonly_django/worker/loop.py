"""One worker process. Its main loop claims jobs, hands them out and writes their ends; no other thread does.

Slots, heartbeat and signal handlers put what they have to say into one inbox. The loop reads it, and hears NOTIFY by
itself.
"""

import os
import threading
import time

from pgonly_django.compat import uuid7
from pgonly_django.conf import settings
from pgonly_django.context.run import Run, lease_end
from pgonly_django.queue import liveness
from pgonly_django.queue.claim import ClaimedJob, Claimer
from pgonly_django.queue.finish import Finish
from pgonly_django.worker import job_log, reports
from pgonly_django.worker.claiming import PollTimer, Prefetch, Promotion, Room
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.duties import duties
from pgonly_django.worker.duties.dead_letters import DeadLettersWanted
from pgonly_django.worker.duties.declare import declare
from pgonly_django.worker.ending import Ended, WorkerFacts, never_started
from pgonly_django.worker.exchange import Exchanger
from pgonly_django.worker.following import Ends, FailureCalls, FinishedSignals, tell_stop
from pgonly_django.worker.heartbeat import Heartbeat, Rescue
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.inbox import Inbox
from pgonly_django.worker.job_stats import JobStats
from pgonly_django.worker.limited_claims import LimitedClaims
from pgonly_django.worker.maintenance import Maintenance
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.payloads import RETIRE, WAKE, Payloads
from pgonly_django.worker.reports import OutputWriter
from pgonly_django.worker.running import Executor
from pgonly_django.worker.scheduler import Scheduler
from pgonly_django.worker.sleep import Sleep
from pgonly_django.worker.slots import Slots
from pgonly_django.worker.status import ExitCode, Status, state_of
from pgonly_django.worker.stopping import LEAVE_SECONDS, Deadline, Shutdown, StopRequests
from pgonly_django.worker.timers import NEVER, REFUSED_SECONDS
from pgonly_django.worker.watchdog import CancelRequests, Watchdog

MESSAGES_AT_ONCE = 1000
AWAY_SECONDS = 0.1  # between two tries while the database is away
REPORT_SECONDS = 0.5
FIRST_SCHEDULES_SECONDS = 10.0
LONGEST_LEAVE_SECONDS = 10.0  # of a worker that nobody has told to stop
CALLS_SECONDS = 5.0  # for signals and on_failure together
JOIN_SECONDS = 2.0
STOP_SECONDS = 2.0  # in which instruments send what they have
# Of the time for leaving, what is kept for the steps behind these calls, instruments and threads.
AFTER_CALLS, AFTER_INSTRUMENTS, AFTER_THREADS = 0.5, 0.35, 0.15
WRITES_AT_END = 3


class WorkerLoop:
    def __init__(self, options: WorkerOptions, ends_at: float | None = None) -> None:
        """`ends_at`, by time.monotonic(), is the end that --max-seconds sets; None: counted from now."""
        self.options = options
        self.id = uuid7()
        who = WorkerFacts(str(self.id), options.name)
        self.inbox: Inbox[Ended | Finish | str] = Inbox()
        self.in_flight = InFlight()
        self.database = WorkerConnection(options.database, self.id, options.name, listen=options.listen)
        self.claimer = Claimer(self.id, options.lease_for, options.queues)
        self.exchanger = Exchanger(self.database, self.claimer)
        self.output = OutputWriter(self.database, self.in_flight)
        self.executor = Executor(options.database, who, self.inbox.put)
        self.slots = Slots(self.executor, options.threads)
        self.prefetch = Prefetch(options.threads)
        self.deadline = end = Deadline(options, ends_at)
        self.shutdown = Shutdown(
            end.grace_seconds, who, jobs_until=end.jobs_until, gives_up_at=end.gives_up_at
        )
        self.poll_timer = PollTimer(options, self.database.listener)
        self.claimer.left_early = end.left_early
        unknown = self.claimer.unknown
        self.limited = LimitedClaims(options, self.id, self.database.listener, unknown)
        self.promotion = Promotion(options, self.database.listener, self.poll_timer, self.limited)
        self.watchdog = Watchdog(self.in_flight, self.slots, self.prefetch, end.grace_seconds)
        self.stop_requests = StopRequests(self.id, self.stop, self.drain)
        self.cancel_requests = CancelRequests(self.in_flight, self.database.listener, self.watchdog)
        self.finished_signals = FinishedSignals(options.database)
        self.failure_calls = FailureCalls(options.database, self.executor.tasks)
        self.stats = JobStats()
        rescue = Rescue(options, self.inbox.put, self.stats)
        self.heartbeat = Heartbeat(
            self.id, options, self.in_flight, self.inbox.put, self.database, rescue, self.stats
        )
        self.scheduler = Scheduler(self.id, options, self.database.listener, self.wake)
        self.maintenance = self._make_maintenance()
        self.dead_letters = DeadLettersWanted(self.maintenance, self.inbox.put)
        self.room = Room(options, self.in_flight, self.limited, self.prefetch, self.shutdown, end)
        self.ends = Ends(
            self.in_flight, self.room, prefetch=self.prefetch, deadline=end, poll_timer=self.poll_timer,
            limited=self.limited, promotion=self.promotion, stats=self.stats, dead_letters=self.dead_letters,
            failure_calls=self.failure_calls, finished_signals=self.finished_signals,
            look_from_head=self._look_from_head, tasks=self.executor.tasks, unknown=unknown,
        )  # fmt: skip
        self.sleep = Sleep(
            self.id, options, self.database, (self.poll_timer, self.limited, self.promotion),
            (self.heartbeat, self.maintenance, self.scheduler), self.stop_requests, self.slots,
            (self.finished_signals, self.failure_calls), self._has_nothing_to_do,
        )  # fmt: skip
        self.payloads = Payloads(
            options.queues, sleep=self.sleep, poll_timer=self.poll_timer, limited=self.limited,
            promotion=self.promotion, cancel_requests=self.cancel_requests, scheduler=self.scheduler,
            stop_requests=self.stop_requests, dead_letters=self.dead_letters, failure_calls=self.failure_calls,
            finished_signals=self.finished_signals, retire=self._retire,
        )  # fmt: skip
        self.turned_at = time.monotonic()
        self.ready, self.left = threading.Event(), threading.Event()
        self._next_report = 0.0
        self._is_leaving = self._is_retiring = False

    def _make_maintenance(self) -> Maintenance:
        alias, tell = self.options.database, self.inbox.put
        return Maintenance(alias, duties(alias, tell), tell)

    def stop(self) -> None:
        """Claim no more, tell the jobs, wait for the grace. For signal handlers and any thread."""
        self.shutdown.ask()
        self.inbox.put("stop")

    def stop_now(self) -> None:
        """Release the running jobs now. For signal handlers and any thread."""
        self.shutdown.ask(at_once=True)
        self.inbox.put("stop")

    def wake(self) -> None:
        """Look for jobs now. For any thread."""
        self.inbox.put(WAKE)

    def retire(self) -> None:
        """Claim no more, finish what is held, and end with a code that asks for a fresh process. For any thread."""
        self.inbox.put(RETIRE)

    def drain(self) -> None:
        """Claim no more, finish what is held, and end. For the main loop."""
        self.room.drain()

    @property
    def is_stopping(self) -> bool:
        return self.shutdown.is_asked

    def status(self) -> Status:
        """How it goes. For any thread, at once."""
        running = len(self.in_flight.ids)
        is_stopping, ends = self.room.is_closed or self._is_leaving, self.ends
        return Status(
            worker_id=str(self.id), name=self.options.name, pid=os.getpid(), threads=self.options.threads,
            state=state_of(
                is_stopping=is_stopping, is_started=self.ready.is_set(), is_away=self.database.is_away,
                is_asleep=self.sleep.is_asleep,
            ),
            running=running, jobs_done=ends.jobs_done, jobs_failed=ends.jobs_failed,
            jobs_released=ends.jobs_released, stuck_slots=self.slots.stuck, turned_at=self.turned_at,
            idle_since=None if running else self.poll_timer.busy_at,
        )  # fmt: skip

    def run(self) -> ExitCode:
        """Work until told to stop or there is nothing left to do. Once, from one thread.

        When the loop itself breaks, no ends are written any more. No lease is renewed from then on, so that what ran
        here goes to other workers, and the process has to go.
        """
        try:
            self._start()
            while not self._is_done():
                self._turn()
            return self._leave()
        except BaseException:
            self.maintenance.end()
            self.scheduler.end()
            self.heartbeat.end()
            self.database.close_all()
            self.finished_signals.close(0.0)
            self.failure_calls.close(0.0)
            self.slots.close(0.0)
            self.inbox.close()
            raise

    def _start(self) -> None:
        # First of all, on the main connection: it finds out whether a pooler stands between, which the heartbeat asks;
        # and a short burst may be over before the first beat.
        facts = self.heartbeat.facts()
        self.database.ask(lambda connection: liveness.register(connection, facts))
        self.database.listening.connection()
        declare(self.options.database)
        if settings().queues:  # the workers that run already may not know of these limits
            self.database.ask(self.limited.tell)
        self._start_threads()
        self.poll_timer.busy_at = time.monotonic()  # the start is no time without jobs
        self.ready.set()

    def _start_threads(self) -> None:
        self.heartbeat.start()
        self.maintenance.start()
        self.finished_signals.start()
        self.scheduler.start()
        if self.options.burst:  # a burst does what is due already, and not what is due later
            self.scheduler.has_looked.wait(self.deadline.at_most(FIRST_SCHEDULES_SECONDS))
            self.scheduler.end()

    def _turn(self) -> None:
        self.turned_at = time.monotonic()
        self._read_inbox()
        self.turned_at = now = time.monotonic()
        if self.deadline.is_over(now):
            self.shutdown.ask()
        if self.shutdown.is_asked:
            self.shutdown.obey(now, self.in_flight)
            self.scheduler.end()
        if self.sleep.goes_on(now):
            return
        self._do_duties(now)
        if self.in_flight.forget_cleared():
            self._look_from_head()
        self._exchange(now)
        self._claim_limited(time.monotonic())
        self.stats.count()
        if self.options.burst and self.ends.has_news and self.in_flight.is_empty:
            self._look_for_the_last()

    # The inbox.

    def _read_inbox(self) -> None:
        """Wait until there is something to do, and take note of what was said."""
        payloads = self.database.heard()  # some may have come along with the last answer
        pause = 0.0 if payloads else self._pause(time.monotonic())
        messages = self.inbox.take(MESSAGES_AT_ONCE, pause, self.database.socket)
        for message in (*payloads, *messages, *self.database.heard()):
            if isinstance(message, Ended):
                self.ends.take(message)
            elif isinstance(message, Finish):
                self.in_flight.release_unknown(message)
            else:
                self.payloads.take(message)

    def _pause(self, now: float) -> float:
        """How long there is nothing to do but to wait for messages."""
        if self.database.is_away:
            return AWAY_SECONDS
        times = [now + 60.0, self.shutdown.next_step(now), self.deadline.next_step(now)]
        times += [self.sleep.wake_at] if self.sleep.is_asleep else self._times_awake(now)
        if self.options.max_idle_seconds is not None and not self._is_busy:
            times.append(self.poll_timer.busy_at + self.options.max_idle_seconds)
        return max(min(times) - now, 0.0)

    def _times_awake(self, now: float) -> list[float]:
        times = [
            self.cancel_requests.next_run,
            self.stop_requests.next_run,
            self.watchdog.next_run,
            self.in_flight.next_write(now),
            self.limited.tell_at,
            self.failure_calls.next_check(now),
            self.heartbeat.stand_in_at,
        ]
        if self.database.listening.is_away:
            times.append(now + AWAY_SECONDS)
        if not self.shutdown.is_asked:
            times += (self.promotion.next_run, self.sleep.next_run)
            if not self.room.is_closed:
                times.append(self.limited.next_look(self.room.idle_slots))
                if self.room.wants_more:
                    times.append(self._next_look())
        return times

    def _next_look(self) -> float:
        return self.poll_timer.next_look(has_slot=self.room.has_free_slot)

    def _retire(self, _: str) -> None:
        self._is_retiring = True
        self.drain()

    def _look_from_head(self) -> None:
        """The next suspect may be claimed now: only a head claim finds it."""
        self.claimer.look_from_head_next()
        self.poll_timer.look_now()
        self.limited.look_now()

    def _look_for_the_last(self) -> None:
        """The jobs that have ended may have enqueued others that no NOTIFY tells of: without LISTEN none does, and one
        in close succession is held back."""
        self.ends.has_news = False
        self.poll_timer.look_now()
        self.limited.look_now()

    # Duties.

    def _do_duties(self, now: float) -> None:
        duties = (self.cancel_requests, self.stop_requests, self.promotion)
        for duty in duties[:2] if self.shutdown.is_asked else duties:
            if now >= duty.next_run and self.database.ask(duty.run_once) is None:
                duty.put_off()
        if now >= self.heartbeat.stand_in_at:
            self.heartbeat.stand_in(self.database)
        if now >= self.sleep.next_run and not self.shutdown.is_asked:
            self.sleep.run_once()
        if now >= self.limited.tell_at and self.database.ask(self.limited.tell) is None:
            self.limited.tell_at = now + REFUSED_SECONDS
        self.failure_calls.replace_stuck(now)
        if now >= self.watchdog.next_run:
            for ended in self.watchdog.run_once():
                self.ends.close(ended, tells_successes=True)

    # The exchange.

    def _exchange(self, now: float) -> None:
        """Write what is to be written and claim what there is room for, in one round trip."""
        self.output.run_once(now)
        finishes = self.in_flight.finishes(now)
        claim = self.room.claim() if now >= self._next_look() else None
        with reports.being_written:
            is_due = now >= self._next_report or finishes
            reported = reports.reports_of(self.in_flight.runs.values()) if is_due else []
            if not (finishes or reported or claim):
                return
            if reported:
                self._next_report = now + REPORT_SECONDS
            result = self.exchanger.exchange(finishes, reported, claim)
            written = () if result is None else result.reported
            reports.put_back(self.in_flight.runs, [each for each in reported if each.id not in written])
        if result is None:
            return
        if result.was_refused:
            self.poll_timer.put_off()
        if claim is not None and result.claimed:
            self.poll_timer.looked(result.jobs, claim, self.claimer, began=now)
            self.limited.note_ordinary_claim(len(result.jobs))
        # First the ends: a job that went back may have been claimed again in the same exchange.
        tells_successes = self.ends.tells_successes()
        for ended in self.in_flight.settle(result):
            self.ends.close(ended, tells_successes=tells_successes)
        self._hand_out(result.jobs, claimed_at=now)

    def _claim_limited(self, now: float) -> None:
        free_slots, left = self.room.idle_slots, self.room.jobs_left
        if self.room.is_closed or now < self.limited.next_look(free_slots):
            return
        take_suspect = not self.in_flight.has_suspect
        claimed = self.database.ask(
            lambda connection: self.limited.run_once(
                connection, free_slots, jobs_at_most=left, take_suspect=take_suspect
            )
        )
        if claimed is None:
            self.limited.put_off()
        elif claimed.jobs:
            self._hand_out(claimed.jobs, now, claimed.slots)

    def _hand_out(
        self, jobs: list[ClaimedJob], claimed_at: float, slots: dict[str, int] | None = None
    ) -> None:
        """`slots`: of limited jobs, by their ids."""
        now, until = time.monotonic(), lease_end(claimed_at, self.options.lease_for)
        alias, name = self.options.database, self.options.name
        runs = [Run(job, alias, claimed_at=now, lease_until=until, worker=name) for job in jobs]
        if slots is not None:
            for run in runs:
                run.slots, run.is_limited = slots[run.job.id], True
        self.executor.look_who_listens()
        self.in_flight.hold(runs)  # all of them first: the heartbeat asks what is held
        for run in runs:
            if self.deadline.admit(run):
                self.slots.submit(run)
            elif run.take():
                self.in_flight.end(Ended(run, never_started(run.job.id, run.job.lease_epoch)))
        self.room.jobs_left -= len(jobs)

    # The end.

    def _has_nothing_to_do(self) -> bool:
        """Nothing is held, wanted or owed, and the last looks have found nothing."""
        is_empty = self.in_flight.is_empty and not self.in_flight.superseded
        has_looked = self.poll_timer.drained and self.limited.drained and self.limited.tell_at == NEVER
        may_end = self.options.burst or self.room.is_closed
        return (
            is_empty
            and has_looked
            and not (may_end or self.dead_letters.are_due or self.failure_calls.are_going)
        )

    @property
    def _is_busy(self) -> bool:
        """It does not end by itself. Letters that are due are to be enqueued, and run here."""
        return not self.in_flight.is_empty or (self.dead_letters.are_due and not self.shutdown.is_asked)

    def _is_done(self) -> bool:
        if not self.in_flight.is_empty:
            gives_up = self.shutdown.gives_up(is_away=self.database.is_away)
            if gives_up:
                job_log.log_left(self.in_flight.ids, is_away=self.database.is_away)
            return gives_up
        if self._is_busy:
            return False
        idle_seconds = time.monotonic() - self.poll_timer.busy_at
        return (
            self.room.is_closed
            or self._is_stuck
            or (self.options.burst and self.poll_timer.drained and self.limited.drained)
            or (self.options.max_idle_seconds is not None and idle_seconds >= self.options.max_idle_seconds)
        )

    @property
    def _is_stuck(self) -> bool:
        return self.slots.stuck >= self.options.threads

    def _leave(self) -> ExitCode:
        self.database.wake()  # its row says that it has stopped
        self._is_leaving = True
        self.maintenance.end()
        self.scheduler.end()
        calls_until = time.monotonic() + CALLS_SECONDS
        self.deadline.leave_by(time.monotonic() + LONGEST_LEAVE_SECONDS, LONGEST_LEAVE_SECONDS)
        self.deadline.leave_by(self.shutdown.leaves_at, LEAVE_SECONDS)
        at_most = self.deadline.at_most
        self.finished_signals.close(at_most(CALLS_SECONDS, keeps=AFTER_CALLS))
        self.failure_calls.close(at_most(max(calls_until - time.monotonic(), 0.0), keeps=AFTER_CALLS))
        tell_stop(at_most(STOP_SECONDS, keeps=AFTER_INSTRUMENTS))
        self.heartbeat.end()
        if self.heartbeat.is_alive():  # first, or it may say once more that this worker lives
            self.heartbeat.join(at_most(JOIN_SECONDS, keeps=AFTER_THREADS))
        if self.limited.tell_at < NEVER:
            self.database.ask(self.limited.tell)
        self.database.ask(lambda connection: liveness.stopped(connection, self.id))
        for _ in range(WRITES_AT_END):  # other workers that end may write the same rows
            if self.database.ask(self.stats.write) is not False:
                break
        self.database.close_all()
        self.slots.close(0.0 if self.shutdown.left_behind else at_most(JOIN_SECONDS, keeps=AFTER_THREADS))
        for thread in (self.maintenance, self.scheduler):  # a round of it has a connection open
            if thread.is_alive():
                thread.join(at_most(JOIN_SECONDS, keeps=AFTER_THREADS))
        self.inbox.close()
        self.left.set()
        is_replaced = self._is_stuck or self._is_retiring or self.room.is_used_up
        return ExitCode.REPLACE_ME if is_replaced else ExitCode.STOPPED
