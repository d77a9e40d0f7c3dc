"""One worker process: claims, hands out, looks after and finishes. Its loop is the only one that writes ends.

Slots, heartbeat and signal handlers put what they have to say into one inbox; the loop takes it from there, and
hears the database itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from pgonly_django.compat import uuid7
from pgonly_django.context.run import Run, lease_end
from pgonly_django.database import notify
from pgonly_django.events import emit
from pgonly_django.models.job import SUSPECT_FROM, State
from pgonly_django.queue.claim import Claim, ClaimedJob, Claimer
from pgonly_django.queue.finish import Finish, Outcome
from pgonly_django.worker import outcomes, watchdog
from pgonly_django.worker.exchange import Exchanger, ExchangeResult
from pgonly_django.worker.executor import Ended, Executor
from pgonly_django.worker.finished_signals import FinishedSignals
from pgonly_django.worker.heartbeat import Heartbeat
from pgonly_django.worker.inbox import Inbox
from pgonly_django.worker.job_log import log_end
from pgonly_django.worker.maintenance import Maintenance
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.poll_timer import NEVER, PollTimer
from pgonly_django.worker.prefetch import Prefetch
from pgonly_django.worker.shutdown import Shutdown
from pgonly_django.worker.slots import Slots

SUPERVISE_SECONDS = 0.25
BATCH_LIMIT = 1000
AWAY_SECONDS = 0.1  # between two tries while the database is away
# A row that was locked is tried again after half the time that it has been, within these.
LOCKED_RETRY_SECONDS = (0.1, 1.0)
CANCEL_POLL_SECONDS = 1.0  # without LISTEN, while jobs run
ANNOUNCE_SECONDS = 5.0
LEFT_NAMED = 20
JOIN_SECONDS = 2.0


class ExitCode(IntEnum):
    """What the process ends with. Errors before the start end with Django's 1, wrong flags with 2."""

    STOPPED = 0  # asked to, or --burst, --max-jobs, --max-idle-seconds came true
    BROKEN = 1  # its loop raised something: what ran is rescued once its leases are over
    REPLACE_ME = 3  # every slot is held by a job that ignores its interruption: start a fresh process


@dataclass(slots=True)
class Locked:
    """Since when a row was found locked, and when to try again."""

    since: float
    retry_at: float


class WorkerLoop:
    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        self.id = uuid7()
        self.facts = outcomes.WorkerFacts(str(self.id), options.name)
        self.inbox: Inbox[Ended | Finish | str] = Inbox()
        self.runs: dict[str, Run] = {}
        self.ended: dict[str, Ended] = {}  # over here, not yet committed
        self.unknown_claims: dict[str, Finish] = {}  # rows in our name that we do not know
        self.locked: dict[str, Locked] = {}  # ends whose row somebody else holds locked
        self.superseded: list[Run] = []  # still running here, but lost, rescued and claimed once more by us
        self.claimer = Claimer(options.database, self.id, options.lease_for, options.queues)
        self.exchanger = Exchanger(options.database, options.name, self.claimer, listen=options.listen)
        self.executor = Executor(options.database, str(self.id), options.name, self.inbox.put)
        self.slots = Slots(self.executor, options.threads)
        self.prefetch = Prefetch(options.threads)
        self.heartbeat = Heartbeat(self.id, options, self)
        self.maintenance = Maintenance(options.database)
        self.finished_signals = FinishedSignals(options.database)
        self.jobs_left = options.max_jobs if options.max_jobs is not None else NEVER
        self.jobs_done = self.jobs_released = 0
        self.shutdown = Shutdown(options.grace_seconds, self.facts)
        self.ready, self.left = threading.Event(), threading.Event()
        self.poll_timer = PollTimer(options, self.exchanger.listener)
        self._supervise_at = self._report_at = self._look_for_cancels_at = 0.0

    # From outside: signal handlers and tests.

    def stop(self) -> None:
        """Claim no more, tell the jobs, wait for the grace."""
        self.shutdown.ask()
        self.inbox.put("stop")

    def stop_now(self) -> None:
        """Release the running jobs now."""
        self.shutdown.ask(at_once=True)
        self.inbox.put("stop")

    # From the heartbeat's thread.

    @property
    def reaches_postgres(self) -> bool:
        return self.exchanger.reaches_postgres

    def held(self) -> Mapping[str, Run]:
        return self.runs.copy()

    def wake_up(self, payload: str) -> None:
        self.inbox.put(payload)

    def give_back_unknown(self, rows: Mapping[str, int]) -> None:
        for job_id, lease in rows.items():
            self.inbox.put(
                Finish(job_id, lease, Outcome.RELEASED, State.READY, costs_attempt=False, started=False)
            )

    def announce_end(self, job_id: str) -> None:
        self.finished_signals.announce_row(job_id)

    # The loop.

    def run(self) -> ExitCode:
        """Work until told to stop or there is nothing left to do. Once, from one thread.

        When the loop itself breaks, nobody writes ends any more: no lease is renewed from then on, so that what ran
        here goes to other workers, and the process has to go.
        """
        try:
            return self._run()
        except BaseException:
            self.maintenance.end()
            self.heartbeat.end()
            self.exchanger.close()
            self.finished_signals.close(0.0)
            self.slots.close(0.0)
            self.inbox.close()
            raise

    def _run(self) -> ExitCode:
        # First of all: the heartbeat does as was found there, and a short burst may be over before its first beat.
        self.exchanger.register(self.heartbeat.facts())
        self.heartbeat.start()
        self.maintenance.start()
        self.finished_signals.start()
        self.ready.set()
        while not self._is_done():
            self._turn()
        return self._leave()

    def _turn(self) -> None:
        self._read_mail()
        now = time.monotonic()
        if self.shutdown.is_asked:
            for ended in self.shutdown.obey(now, self.runs, self.ended):
                self.ended[ended.run.job.id] = ended
        if now >= self._look_for_cancels_at and self.runs:
            self._look_for_cancels(now)
        if now >= self._supervise_at and self.runs:
            self._supervise(now)
        if self.poll_timer.promotion_is_due(now) and not self.shutdown.is_asked:
            self._promote(now)
        self._exchange(now)

    def _pause(self, now: float) -> float:
        """How long there is nothing to do but to wait for mail."""
        times = [now + 60.0, self.shutdown.next_step(now)]
        if not self.shutdown.is_asked:
            times.append(self.poll_timer.next_promotion)
            if self.prefetch.wants_more(self._going) and self.jobs_left > 0:
                times.append(self.poll_timer.next_look(has_slot=self._going < self.options.threads))
        if self.runs:
            times += (self._supervise_at, self._look_for_cancels_at)
        if self.options.max_idle_seconds is not None:
            times.append(self.poll_timer.busy_at + self.options.max_idle_seconds)
        if any(
            job_id not in self.locked
            for unwritten in (self.ended, self.unknown_claims)
            for job_id in unwritten
        ):
            times.append(now)
        times += [locked.retry_at for locked in self.locked.values()]
        if self.exchanger.is_away:
            return AWAY_SECONDS
        return max(min(times) - now, 0.0)

    @property
    def _going(self) -> int:
        """How many runs take up a slot, or wait for one: an end that cannot be written yet does not."""
        return len(self.runs) - len(self.ended)

    def _read_mail(self) -> None:
        words = self.exchanger.heard()  # some may have come along with the last answer
        pause = 0.0 if words else self._pause(time.monotonic())
        mail = self.inbox.take(BATCH_LIMIT, pause, self.exchanger.socket)
        for each in (*words, *mail, *self.exchanger.heard()):
            self._take(each)

    def _take(self, mail: Ended | Finish | str) -> None:
        if isinstance(mail, Ended):
            self._take_end(mail)
        elif isinstance(mail, Finish):
            run = self.runs.get(mail.id)
            if run is None or run.job.lease_epoch != mail.lease_epoch:
                self.unknown_claims[mail.id] = mail
        elif mail == notify.DUE:
            self.poll_timer.hear_due()
        elif mail.startswith(notify.READY):
            name = mail.removeprefix(notify.READY + " ")
            if not self.options.queues or name == notify.ANY_QUEUE or name in self.options.queues:
                self.poll_timer.hear_ready()
        elif mail.startswith(notify.CANCEL):
            self._look_for_cancels_at = 0.0

    def _take_end(self, ended: Ended) -> None:
        run = ended.run
        if run in self.superseded:
            self.superseded.remove(run)
            watchdog.emit_lost(run)
            return
        if run.abandoned:
            return
        self.prefetch.note(run.job.queue, ended.took_seconds)
        if ended.finish is None:
            watchdog.emit_lost(run)
            self._forget(ended)
        elif ended.committed:
            self._forget(ended)
        else:
            self.ended[run.job.id] = ended

    def _forget(self, ended: Ended) -> None:
        """The job is off our hands: written by us, or somebody else's. What a later run of it here left stays."""
        run = ended.run
        if self.runs.get(run.job.id) is run:
            del self.runs[run.job.id]
            self.ended.pop(run.job.id, None)
            self.locked.pop(run.job.id, None)
        self.poll_timer.busy_at = time.monotonic()
        if run.started_at is None:
            self.jobs_left += 1
        elif ended.finish is not None and ended.finish.outcome is Outcome.RELEASED:
            self.jobs_released += 1
        else:
            self.jobs_done += 1
        if run.job.crashes >= SUSPECT_FROM:
            self._look_from_head()
        log_end(ended)
        if ended.finish is not None:
            self.finished_signals.announce(ended)

    def _look_from_head(self) -> None:
        """The next suspect may be claimed now: they are found from the head only."""
        self.claimer.look_from_head_next()
        self.poll_timer.look_now()

    # The database.

    def _exchange(self, now: float) -> None:
        finishes = self._finishes(now)
        claim = self._claim(now, held=self._going)
        with watchdog.reporting:
            reports = watchdog.news(self.runs.values()) if now >= self._report_at or finishes else []
            if not (finishes or reports or claim):
                return
            if reports:
                self._report_at = now + watchdog.REPORT_SECONDS
            answer = self.exchanger.exchange(finishes, reports, claim)
            reported = () if answer is None else answer.reported
            watchdog.put_back(self.runs, [report for report in reports if report.id not in reported])
        if answer is None:
            return
        if answer.was_refused:
            self.poll_timer.refused()
        if claim is not None and answer.claimed:
            self.poll_timer.looked(answer.jobs, claim, self.claimer, began=now)
        for report in reports:
            if report.cleared and report.id in answer.reported and (run := self.runs.get(report.id)):
                run.is_cleared = True
                self._look_from_head()
        # First the ends: a job that went back may have been claimed again in the same exchange.
        self._settle(answer)
        self._start(answer.jobs, lease_from=now)

    def _finishes(self, now: float) -> list[Finish]:
        waiting = [ended.finish for ended in self.ended.values() if ended.finish is not None]
        waiting += self.unknown_claims.values()
        if not self.locked:
            return waiting
        return [
            each for each in waiting if each.id not in self.locked or now >= self.locked[each.id].retry_at
        ]

    def _claim(self, now: float, held: int) -> Claim | None:
        """What to ask for along with the finishes of this exchange, whose jobs are not `held` any more."""
        if (
            self.shutdown.is_asked
            or not self.poll_timer.look_is_due(now, has_slot=held < self.options.threads)
            or self.jobs_left <= 0
            or not self.prefetch.wants_more(held)
        ):
            return None
        left = self.jobs_left
        limits = {
            queue: int(min(limit, left)) for queue, limit in self.prefetch.limits(held).items() if limit > 0
        }
        free_slots = int(min(max(self.options.threads - held, 0), left))
        if free_slots == 0 and not limits:
            return None
        return Claim(free_slots, limits, take_suspect=not watchdog.suspects(self.runs.values()))

    def _settle(self, answer: ExchangeResult) -> None:
        for job_id in answer.finished:
            self._forget_stray(job_id)
            if ended := self.ended.get(job_id):
                ended.finish = answer.as_written(ended.finish)
                self._after_finish(ended)
                self._forget(ended)
        for finish in answer.lost:
            self._forget_stray(finish.id)
            if ended := self.ended.get(finish.id):
                watchdog.emit_lost(ended.run)
                self._forget(Ended(ended.run, None))
        for finish in answer.locked:
            self._set_aside(finish.id)

    def _forget_stray(self, job_id: str) -> None:
        if self.unknown_claims.pop(job_id, None) is not None:
            self.locked.pop(job_id, None)

    def _set_aside(self, job_id: str) -> None:
        now, (shortest, longest) = time.monotonic(), LOCKED_RETRY_SECONDS
        locked = self.locked.setdefault(job_id, Locked(now, now))
        locked.retry_at = now + min(max((now - locked.since) / 2, shortest), longest)

    def _after_finish(self, ended: Ended) -> None:
        finish = ended.finish
        assert finish is not None
        if finish.state is State.SCHEDULED:
            self.poll_timer.expect_due(finish.delay_seconds or 0.0)
        elif finish.state is State.READY:
            self.poll_timer.look_now()

    def _start(self, jobs: list[ClaimedJob], lease_from: float) -> None:
        now = time.monotonic()
        until = lease_end(lease_from, self.options.lease_for)
        runs = [Run(job, self.options.database, claimed_at=now, lease_until=until) for job in jobs]
        # All of them first: the heartbeat asks what is held.
        for run in runs:
            self._hold(run)
        for run in runs:
            self.slots.submit(run)
        self.jobs_left -= len(jobs)

    def _hold(self, run: Run) -> None:
        older = self.runs.get(run.job.id)
        if older is not None:
            older.lease_lost = True
            self.superseded.append(older)
            self.ended.pop(run.job.id, None)
        self.unknown_claims.pop(run.job.id, None)
        self.locked.pop(run.job.id, None)
        self.runs[run.job.id] = run

    def _promote(self, now: float) -> None:
        promotion = self.exchanger.promote()
        if promotion is None:
            self.poll_timer.refused()
        else:
            self.poll_timer.promoted(promotion, began=now)

    # Looking after what runs.

    def _supervise(self, now: float) -> None:
        self._supervise_at = now + SUPERVISE_SECONDS
        runs = [run for job_id, run in self.runs.items() if job_id not in self.ended] + self.superseded
        watchdog.enforce_deadlines(runs, now)
        for run in watchdog.interrupt_the_deaf(runs, now, self.options.grace_seconds):
            self._cut_off(run)
        for run in watchdog.unstarted_too_long(runs, now):
            self.prefetch.forget(run.job.queue)
            self._give_back(run)

    def _look_for_cancels(self, now: float) -> None:
        wanted = self.exchanger.cancel_requested(list(self.runs))
        if wanted is None:
            self._look_for_cancels_at = now + AWAY_SECONDS
            return
        for job_id in wanted:
            self.runs[job_id].cancel_requested = True
            self._supervise_at = now
        self._look_for_cancels_at = NEVER if self.exchanger.listener.listens else now + CANCEL_POLL_SECONDS

    def _give_back(self, run: Run) -> None:
        self.ended[run.job.id] = Ended(run, outcomes.given_back(run))

    def _cut_off(self, run: Run) -> None:
        """Close the row of a job that ignores its interruption. Its thread is lost until the job returns."""
        lost = run.lease_lost
        self.slots.replace(run)
        message = (
            f"{run.job.task} {run.job.id} ignored its interruption and was cut off; its thread is stuck."
        )
        emit("worker.job_cut_off", message, level=logging.ERROR, job_id=run.job.id, task=run.job.task)
        if lost:
            self.superseded = [other for other in self.superseded if other is not run]
            self._forget(Ended(run, None))
        else:
            finish = outcomes.closed_by_force(run, self.executor.options_of(run), self.facts)
            self.ended[run.job.id] = Ended(run, finish)

    # The end.

    def _is_done(self) -> bool:
        if self.runs or self.ended or self.unknown_claims:
            return self.shutdown.gives_up(is_away=self.exchanger.is_away) and self._leave_behind()
        if self.shutdown.is_asked or self.jobs_left <= 0:
            return True
        if self.slots.stuck >= self.options.threads:
            return True
        if self.options.burst and self.poll_timer.drained:
            return True
        idle = self.options.max_idle_seconds
        return idle is not None and self.poll_timer.idle_seconds >= idle

    def _leave_behind(self) -> bool:
        """Say which jobs did not get their end. True."""
        ids = list({**self.runs, **self.ended, **self.unknown_claims})
        reason = "PostgreSQL is away" if self.exchanger.is_away else "their rows are locked"
        message = (
            f"Leaving without having given back {len(ids)} job(s), since {reason}; they run elsewhere once their "
            f"leases are over: {', '.join(ids[:LEFT_NAMED])}{' ...' if len(ids) > LEFT_NAMED else ''}"
        )
        emit("worker.jobs_left", message, level=logging.WARNING, jobs=ids)
        return True

    def _leave(self) -> ExitCode:
        patience = 0.0 if self.shutdown.left_behind else JOIN_SECONDS
        self.maintenance.end()
        self.finished_signals.close(ANNOUNCE_SECONDS)
        self.heartbeat.end()
        self.heartbeat.join(JOIN_SECONDS)  # first, or it may say once more that this worker lives
        self.exchanger.say_stopped(self.id)
        self.exchanger.close()
        self.slots.close(patience)
        if self.maintenance.is_alive():
            self.maintenance.join(JOIN_SECONDS)  # a round of it has a connection open
        self.inbox.close()
        self.left.set()
        stuck = self.slots.stuck >= self.options.threads
        return ExitCode.REPLACE_ME if stuck else ExitCode.STOPPED
