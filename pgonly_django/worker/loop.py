"""One worker process. Its main loop claims jobs, hands them out and writes their ends; no other thread does.

Slots, heartbeat and signal handlers put their messages into one inbox. The loop reads it, and listens to NOTIFY.
"""

import os
import threading
import time
from functools import partial
from typing import Any

from pgonly_django.compat import uuid7
from pgonly_django.context.run import Run
from pgonly_django.database import notify
from pgonly_django.duties import Workplace
from pgonly_django.worker import inbox, reports
from pgonly_django.worker.claim_plan import ClaimPlan
from pgonly_django.worker.connection import ALL, WorkerConnection
from pgonly_django.worker.end_calls import EndCalls, stop_instruments
from pgonly_django.worker.ending import EndedRun, never_started
from pgonly_django.worker.exchange import Exchanger
from pgonly_django.worker.following import Following
from pgonly_django.worker.heartbeat import Heartbeat, StandIn
from pgonly_django.worker.housekeeper import Housekeeper, declare_first
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.inbox import Inbox, Notification
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.run_counter import RunCounter
from pgonly_django.worker.running import Executor
from pgonly_django.worker.sleep import Sleep
from pgonly_django.worker.slots import Slots
from pgonly_django.worker.status import ExitCode, Status, state_of
from pgonly_django.worker.stopping import LOG_SECONDS, Deadline, Shutdown, StopRequests
from pgonly_django.worker.watchdog import CancelRequests, Watchdog

MESSAGES_AT_ONCE = 1000
# The answer to an exchange of this many finishes is not waited for; and how many exchanges may be under way.
MANY, AT_ONCE = 200, 2
ANSWER_SECONDS = 0.004  # of a wait for an answer, after which the loop takes what has ended
AWAY_SECONDS = 0.1  # between two tries while the database is unavailable
REPORT_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
FIRST_SCHEDULES_SECONDS = 10.0  # of a burst


class WorkerLoop:
    def __init__(self, options: WorkerOptions, ends_at: float | None = None) -> None:
        """`ends_at`, by time.monotonic(), is the end that --max-seconds sets; None: counted from now."""
        self.options = options
        self.id = uuid7()
        self.inbox: Inbox[Any] = Inbox()  # EndedRun, and what worker/inbox.py has
        tell, alias = self.inbox.put, options.database
        self.in_flight = InFlight()
        self.database = WorkerConnection(alias, self.id, options.name, listen=options.listen)
        self.executor = Executor(alias, str(self.id), tell)
        self.slots = Slots(self.executor, options.threads, self._begin_slot)
        self.deadline = end = Deadline(options, ends_at)
        self.shutdown = Shutdown(end.grace_seconds, jobs_until=end.jobs_until, gives_up_at=end.gives_up_at)
        self.plan = ClaimPlan(options, self.id, self.database, self.in_flight, self.shutdown, end)
        self.exchanger = Exchanger(self.database, self.plan.claimer)
        self.output = reports.OutputWriter(self.database, self.in_flight)
        self.stats, tasks = RunCounter(), self.executor.tasks
        self.heartbeat = Heartbeat(self.id, options, self.in_flight, self.stats, self.database, tell)
        self.stand_in = self._make_stand_in()
        self.housekeeper = self._make_housekeeper()
        self.calls = EndCalls(alias, tasks, self.housekeeper)
        self.executor.log_failure = self.calls.log.log_failure
        self.following = Following(self.in_flight, self.plan, self.stats, self.calls, tasks)
        self.stop_requests = StopRequests(self.id, self.database, self.stop, self.plan.drain)
        self.sleep = Sleep(
            self.id, options, self.database, self.plan, self.heartbeat, self.housekeeper, self.stop_requests,
            (self.slots, self.calls), is_idle=self._has_nothing_to_do,
        )  # fmt: skip
        watchdog = Watchdog(
            self.in_flight, self.slots, end.grace_seconds,
            not_short=self.plan.forget_run_seconds, lost=partial(self.following.close, tells_successes=True),
        )  # fmt: skip
        self.cancel_requests = CancelRequests(self.in_flight, self.database, watchdog)
        # What the loop does when it is due; while it stops only the first ones.
        self._timers_of_stop = [
            self.cancel_requests, self.stop_requests, self.plan.room_notice, self.stand_in,
            self.calls.failures, self.calls.log, watchdog,
        ]  # fmt: skip
        self._timers = [*self._timers_of_stop, self.plan.promotion, self.plan.delivery, self.sleep]
        self.turned_at = time.monotonic()
        self.ready, self.left = threading.Event(), threading.Event()
        self._next_report, self._is_leaving, self._is_retiring = 0.0, False, False

    def _begin_slot(self) -> None:
        """Called by each thread that runs jobs, before its first job."""

    def _make_stand_in(self) -> StandIn:
        return StandIn(self.heartbeat)

    def _make_housekeeper(self) -> Housekeeper:
        options, listener = self.options, self.database.listener
        return Housekeeper(
            Workplace(options.database, self.id, options.lease_for, self.inbox.put, lambda: listener.listens)
        )

    def stop(self) -> None:
        """Stops claiming, tells the jobs, and waits for the grace period. For signal handlers and any thread."""
        self.shutdown.ask()
        self.inbox.put("stop")

    def stop_now(self) -> None:
        """Releases the running jobs now. For signal handlers and any thread."""
        self.shutdown.ask(at_once=True)
        self.inbox.put("stop")

    def wake(self) -> None:
        """Looks for jobs now. For any thread."""
        self.inbox.put(inbox.WAKE)

    def retire(self) -> None:
        """Stops claiming, finishes its jobs, and ends with a code that asks for a fresh process. For any thread."""
        self.inbox.put(inbox.RETIRE)

    @property
    def is_stopping(self) -> bool:
        return self.shutdown.is_asked

    def status(self) -> Status:
        """Returns the status, to any thread, at once."""
        running = len(self.in_flight.ids)
        is_stopping, ended = self.plan.is_closed or self._is_leaving, self.following
        return Status(
            worker_id=str(self.id), name=self.options.name, pid=os.getpid(), threads=self.options.threads,
            state=state_of(
                is_stopping=is_stopping, is_started=self.ready.is_set(), is_away=self.database.is_away,
                is_asleep=self.sleep.is_asleep,
            ),
            running=running, jobs_done=ended.jobs_done, jobs_failed=ended.jobs_failed,
            jobs_released=ended.jobs_released, stuck_slots=self.slots.stuck, turned_at=self.turned_at,
            idle_since=None if running else self.plan.busy_at,
        )  # fmt: skip

    def run(self) -> ExitCode:
        """Works until told to stop or there is nothing left to do. Once, from one thread.

        When the loop itself breaks, no ends are written any more. No lease is renewed from then on, so that what ran
        here goes to other workers, and the process has to end.
        """
        try:
            with self.calls.log.takes_events():
                self._start()
                while not self._is_done():
                    self._turn()
                return self._leave()
        except BaseException:
            self.heartbeat.end()
            self.housekeeper.end()
            self.database.close_all()
            self.calls.close(0.0)
            self.calls.log.close(LOG_SECONDS)
            self.slots.close(0.0)
            self.inbox.close()
            raise

    def _start(self) -> None:
        # First of all, on the main connection: it finds out whether a pooler stands between, which the heartbeat asks;
        # and a short burst may be over before the first beat.
        self.database.ask(self.heartbeat.register)
        self.database.listening.connection()
        declare_first(self.options.database, self.database, lambda: self.is_stopping)
        self._start_threads()
        self.plan.begin()
        self.ready.set()

    def _start_threads(self) -> None:
        for thread in (self.heartbeat, self.housekeeper):  # they may not wait for a handler of the log
            thread.takes_events = self.calls.log.takes_events
            thread.start()
        if self.options.burst:
            self.housekeeper.begin_burst(self.deadline.at_most(FIRST_SCHEDULES_SECONDS))

    def _turn(self) -> None:
        self.turned_at = time.monotonic()
        self._read_inbox()
        self.turned_at = now = time.monotonic()
        if now >= self.deadline.stop_at:
            self.shutdown.ask()
        if self.shutdown.is_asked:
            self.shutdown.obey(now, self.in_flight)
            self.housekeeper.enqueue_nothing()
            self._timers = self._timers_of_stop
        if self.sleep.goes_on(now):
            return
        self._run_timers(now)
        if self.in_flight.forget_cleared():
            self.plan.look_from_head()
        self._exchange(now)
        self._claim_limited()
        self.stats.count()
        self.calls.log.send()
        if self.options.burst and self.following.has_news and self.in_flight.is_empty:
            # The jobs that have ended may have enqueued others that no NOTIFY tells of: without LISTEN none does, and
            # one in close succession is held back.
            self.following.has_news = False
            self.plan.look_now()

    # The inbox.

    def _read_inbox(self) -> None:
        """Waits until there is something to do, and takes note of what was said."""
        payloads = self.database.heard()  # some may have come along with the last answer
        if self.exchanger.under_way:
            self.exchanger.wait(ANSWER_SECONDS)
        pause = 0.0 if payloads or self.exchanger.under_way else self._pause(time.monotonic())
        messages = self.inbox.take(MESSAGES_AT_ONCE, pause, self.database.socket)
        for message in (*payloads, *messages, *self.database.heard()):
            match message:
                case EndedRun():
                    self.following.take(message)
                case inbox.UnknownClaim():
                    self.in_flight.release_unknown(message)
                case str():
                    self._hear(Notification.parse(message))
                case Notification():
                    self._hear(message)
                case inbox.Requested(request):
                    self.stop_requests.take(request)
                case inbox.DutyDone():
                    self.housekeeper.note_done(message)
                case inbox.DutiesChecked():
                    self.sleep.note_checked()

    def _hear(self, heard: Notification) -> None:
        """Handles a notification. One of an unknown kind, from a newer worker or another program, is left out."""
        match heard.kind:
            case notify.READY | notify.LIMITED | notify.DUE | notify.EVENT if self.plan.serves(heard.name):
                self.sleep.note_news()
                self.plan.hear(heard.kind, heard.name)
            case notify.CANCEL:
                self.cancel_requests.wake()
            case notify.WORKER:
                self.stop_requests.hear_of(heard.name)
            case inbox.RESCUED_FAILED | inbox.RESCUED_FINISHED:
                self.calls.hear_rescued(heard.name, has_failed=heard.kind == inbox.RESCUED_FAILED)
            case inbox.WAKE:
                for payload in ALL:
                    self._hear(Notification.parse(payload))
            case inbox.RETIRE:
                self._is_retiring = True
                self.plan.drain()
            case _:
                self.housekeeper.hear(heard.kind, heard.name)

    def _pause(self, now: float) -> float:
        """Returns for how long there is nothing to do but to wait for messages."""
        if self.database.is_away:
            return AWAY_SECONDS
        times = [now + LONGEST_PAUSE_SECONDS, self.shutdown.next_step(now), self.deadline.next_step(now)]
        if self.sleep.is_asleep:
            times.append(self.sleep.wake_at)
        else:
            times += [timer.due_at for timer in self._timers]
            times += [self.in_flight.next_write(now), self.plan.next_look()]
            if self.database.listening.is_away:
                times.append(now + AWAY_SECONDS)
        if self.options.max_idle_seconds is not None and not self._is_busy:
            times.append(self.plan.busy_at + self.options.max_idle_seconds)
        return max(min(times) - now, 0.0)

    def _run_timers(self, now: float) -> None:
        for timer in self._timers:
            if now >= timer.due_at:
                timer.run()

    # The exchange.

    def _exchange(self, now: float) -> None:
        """Writes what has to be written and claims the jobs that there is room for, in one round trip."""
        self._follow_up()
        if self._send_ahead(now):
            return
        self._follow_up(waits=True)
        self.output.run(now)
        finishes = self.in_flight.finishes(now)
        claim = self.plan.may_claim_now()
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
        if result is not None:
            self._hand_out(self.following.take_result(result))

    def _send_ahead(self, now: float) -> bool:
        """Sends the first half of an exchange of many finishes, or of a second one. Returns whether not to wait."""
        under_way, finishing = self.exchanger.under_way, self.exchanger.finishing
        has_many = len(self.in_flight.ended) - len(finishing) >= MANY
        if not (under_way or has_many):
            return False
        claim = self.plan.may_claim_now(self.exchanger.claims)
        if len(under_way) == AT_ONCE or not (has_many or claim):
            return True
        if any(run.needs_report for run in self.in_flight.runs.values()):
            return False
        self.output.run(now)
        return self.exchanger.send(self.in_flight.finishes(now, finishing), (), claim)

    def _follow_up(self, *, waits: bool = False) -> None:
        """Takes the results of the exchanges that are under way."""
        if waits:
            self.database.wait_for_answers()
        for result in self.exchanger.received():
            if result is not None:
                self._hand_out(self.following.take_result(result))

    def _claim_limited(self) -> None:
        if time.monotonic() >= self.plan.next_limited_look():
            self._follow_up(waits=True)  # they may bring jobs for these slots
            self._hand_out(self.plan.claim_limited())

    def _hand_out(self, runs: list[Run]) -> None:
        self.executor.look_who_listens()
        self.in_flight.hold(runs)  # all of them first: the heartbeat asks what is held
        for run in runs:
            if not self.shutdown.is_asked and self.deadline.admit(run):
                self.slots.submit(run)
            elif run.take():
                self.in_flight.end(EndedRun(run, never_started(run.job.id, run.job.lease_epoch)))

    # The end.

    def _has_nothing_to_do(self) -> bool:
        """Returns whether nothing is held, wanted or owed, and the last looks have found nothing."""
        is_empty = not (self._holds_jobs or self.in_flight.superseded or self.slots.stuck)
        has_told = not (self.plan.room_notice.is_wanted or self.calls.are_going)
        may_end = self.options.burst or self.plan.is_closed
        return is_empty and self.plan.found_nothing and has_told and not may_end

    @property
    def _holds_jobs(self) -> bool:
        """Returns whether it holds jobs, or may: a claim is under way."""
        return not self.in_flight.is_empty or bool(self.exchanger.under_way)

    @property
    def _is_busy(self) -> bool:
        """Whether it has work, so that it does not end by itself. What is about to be enqueued is run here."""
        return self._holds_jobs or (self.calls.enqueues and not self.shutdown.is_asked)

    def _is_done(self) -> bool:
        if self._holds_jobs:
            return self.shutdown.gives_up(self.in_flight, is_away=self.database.is_away)
        if self._is_busy:
            return False
        idle_seconds = time.monotonic() - self.plan.busy_at
        return (
            self.plan.is_closed
            or self._is_stuck
            or (self.options.burst and self.plan.found_nothing)
            or (self.options.max_idle_seconds is not None and idle_seconds >= self.options.max_idle_seconds)
        )

    @property
    def _is_stuck(self) -> bool:
        return self.slots.stuck >= self.options.threads

    def _leave(self) -> ExitCode:
        self.database.wake()  # its row says that it has stopped
        self._is_leaving = True
        self.housekeeper.end()
        self.deadline.leave(self.shutdown)
        until = time.monotonic() + self.deadline.for_calls()
        self.calls.close(until)
        self.calls.log.close(self.deadline.for_log(until - time.monotonic()))
        stop_instruments(self.deadline.for_instruments())
        self.heartbeat.end()  # first, or it may say again that this worker lives
        self._join(self.heartbeat)
        if self.plan.room_notice.is_wanted:
            self.plan.room_notice.run()
        self.database.ask(self.heartbeat.note_stopped)
        self.stats.write_last(self.database)
        self.database.close_all()
        self.slots.close(0.0 if self.shutdown.left_behind else self.deadline.for_threads())
        self._join(self.housekeeper)  # its lane has a connection open
        self.inbox.close()
        self.left.set()
        is_replaced = self._is_stuck or self._is_retiring or self.plan.is_used_up
        return ExitCode.REPLACE_ME if is_replaced else ExitCode.STOPPED

    def _join(self, thread: threading.Thread) -> None:
        if thread.is_alive():
            thread.join(self.deadline.for_threads())
