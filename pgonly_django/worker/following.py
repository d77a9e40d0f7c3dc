"""What the main loop does when a run has ended here, and when its finish is written."""

from __future__ import annotations

import logging

from pgonly_django.compat import task_finished
from pgonly_django.context.run import Run
from pgonly_django.database import notify
from pgonly_django.events import is_wanted
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from pgonly_django.tasks.backend import has_receivers
from pgonly_django.worker import job_log
from pgonly_django.worker.claim_plan import ClaimPlan
from pgonly_django.worker.end_calls import EndCalls
from pgonly_django.worker.ending import EndedRun
from pgonly_django.worker.exchange import ExchangeResult
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.run_counter import RunCounter
from pgonly_django.worker.task_lookup import TaskLookup


class Following:
    """Used by the main loop alone; other threads may read the counters."""

    def __init__(
        self, in_flight: InFlight, plan: ClaimPlan, stats: RunCounter, calls: EndCalls, tasks: TaskLookup
    ) -> None:
        self._in_flight, self._plan, self._calls, self._tasks = in_flight, plan, calls, tasks
        self._note = stats.note
        self.jobs_done = self.jobs_failed = self.jobs_released = 0
        self.has_news = False  # a job has ended since the last look of a burst

    def tells_successes(self) -> bool:
        """Returns whether the log or a signal wants to know of successes: not for each one."""
        return is_wanted("worker.job_ended", logging.INFO) or has_receivers(task_finished, logging.INFO)

    def take(self, ended: EndedRun) -> None:
        """Takes a run that has ended in this process. An unwritten finish is sent with the next exchange."""
        run, in_flight = ended.run, self._in_flight
        if run.abandoned:
            return
        if run in in_flight.superseded:
            in_flight.forget(run)
            job_log.log_fenced(run)
            return
        if in_flight.runs.get(run.job.id) is not run or run.job.id in in_flight.ended:
            return  # an end was delivered before and counts: see Executor._deliver()
        finish = ended.finish
        if not run.is_limited and (finish is None or finish.outcome.has_run):
            self._plan.note_run_seconds(run.job.queue, ended.took_seconds)
        if finish is not None and finish.outcome is Outcome.POSTPONED and run.job.task in self._tasks.missing:
            self._plan.claimer.unknown.note(run.job.task)
        if run.leaves_early:  # before the exchange that writes its end, and claims
            self._plan.pass_over(run.job.id)
        if finish is None or ended.committed:
            self.close(ended, tells_successes=True)
        else:
            in_flight.end(ended)

    def take_result(self, result: ExchangeResult) -> list[Run]:
        """Takes the result of an exchange. Returns the claimed runs, which may start."""
        runs = self._plan.take(result)
        # First the ends: a job that went back may have been claimed again in the same exchange.
        tells_successes = self.tells_successes()
        for ended in self._in_flight.settle(result):
            self.close(ended, tells_successes=tells_successes)
        return runs

    def close(self, ended: EndedRun, *, tells_successes: bool) -> None:
        """Closes a job whose finish is written, or that belongs to another worker. `tells_successes` False: neither log
        nor signals want to know of a success."""
        run, finish = ended.run, ended.finish
        self._in_flight.forget(run)
        self.has_news = True
        self._plan.note_end(run, finish)
        if finish is not None and finish.outcome is Outcome.RELEASED:
            self.jobs_released += run.started_at is not None
        elif run.started_at is not None:
            self.jobs_done += 1
            self.jobs_failed += finish is not None and finish.state is State.FAILED
        self._note(ended)
        if run.job.batch_id is not None and not self._in_flight.has_jobs_of(run.job.batch_id):
            # Whoever ends the last one has no more of it.
            self._calls.housekeeper.hear(notify.BATCH, run.job.batch_id)
        if finish is None:
            job_log.log_fenced(run)
        elif tells_successes or finish.state is not State.SUCCEEDED:
            self._calls.follow(ended)
