"""The ends of runs: what the main loop does when one is over here, and once that is written."""

import time
from collections.abc import Callable

from pgonly_django.models.job import SUSPECT_FROM, State
from pgonly_django.queue.finish import Outcome
from pgonly_django.queue.unknown_tasks import UnknownTasks
from pgonly_django.worker import job_log
from pgonly_django.worker.deadline import Deadline
from pgonly_django.worker.duties.promotion import Promotion
from pgonly_django.worker.duties.send_dead_letters import DeadLettersWanted
from pgonly_django.worker.failure_calls import FailureCalls
from pgonly_django.worker.finished_signals import FinishedSignals
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.job_stats import JobStats
from pgonly_django.worker.limited_claims import LimitedClaims
from pgonly_django.worker.outcomes import Ended
from pgonly_django.worker.poll_timer import PollTimer
from pgonly_django.worker.prefetch import Prefetch
from pgonly_django.worker.room import Room
from pgonly_django.worker.task_lookup import TaskLookup


class Ends:
    """For the main loop alone; other threads may read the counters."""

    def __init__(
        self, in_flight: InFlight, room: Room, *, prefetch: Prefetch, deadline: Deadline, poll_timer: PollTimer,
        limited: LimitedClaims, promotion: Promotion, stats: JobStats, dead_letters: DeadLettersWanted,
        failure_calls: FailureCalls, finished_signals: FinishedSignals, look_from_head: Callable[[], None],
        tasks: TaskLookup, unknown: UnknownTasks,
    ) -> None:  # fmt: skip
        self._in_flight, self._room, self._prefetch, self._deadline = in_flight, room, prefetch, deadline
        self._poll_timer, self._limited, self._promotion = poll_timer, limited, promotion
        self._dead_letters, self._failure_calls = dead_letters, failure_calls
        self._finished_signals, self._look_from_head = finished_signals, look_from_head
        self._note = stats.note
        self._tasks, self._unknown = tasks, unknown
        self.jobs_done = self.jobs_failed = self.jobs_released = 0
        self.has_news = False  # a job has ended since the last look of a burst

    def tells_successes(self) -> bool:
        """Whether the log or a signal wants to know of successes: not for each one."""
        return job_log.logs_successes() or self._finished_signals.wants_successes()

    def take(self, ended: Ended) -> None:
        """A run is over in this process. An end that is not written yet goes out with the next exchange."""
        run, in_flight = ended.run, self._in_flight
        if run.abandoned:
            return
        if run in in_flight.superseded:
            in_flight.forget(run)
            job_log.log_fenced(run)
            return
        if in_flight.runs.get(run.job.id) is not run or run.job.id in in_flight.ended:
            return  # an end was delivered before and counts: see Executor._deliver()
        if not run.is_limited:
            self._prefetch.note(run.job.queue, ended.took_seconds)
        finish = ended.finish
        if finish is not None and finish.outcome is Outcome.POSTPONED and run.job.task in self._tasks.missing:
            self._unknown.note(run.job.task)
        if run.leaves_early:  # before the exchange that writes its end, and claims
            self._deadline.left_early.add(run.job.id)
        if finish is None or ended.committed:
            self.close(ended, tells_successes=True)
        else:
            in_flight.end(ended)

    def close(self, ended: Ended, *, tells_successes: bool) -> None:
        """The job is off our hands: its end is written, or the job belongs to another worker. `tells_successes` False:
        neither log nor signals want to know of a success."""
        run, finish = ended.run, ended.finish
        self._in_flight.forget(run)
        self._deadline.note_end(run)
        self.has_news = True
        if run.started_at is None:
            self._room.jobs_left += 1
        elif finish is not None and finish.outcome is Outcome.RELEASED:
            self.jobs_released += 1
        else:
            self.jobs_done += 1
            self.jobs_failed += finish is not None and finish.state is State.FAILED
        if run.is_limited:
            self._limited.note_end()
        if run.job.crashes >= SUSPECT_FROM:
            self._look_from_head()
        self._poll_timer.busy_at = time.monotonic()
        self._note(ended)
        if finish is None:
            job_log.log_fenced(run)
        elif tells_successes or finish.state is not State.SUCCEEDED:
            self._follow(ended, finish.state, finish.delay_seconds or 0.0)
            job_log.log_end(ended)
            self._finished_signals.send_later(ended)

    def _follow(self, ended: Ended, state: State, delay_seconds: float) -> None:
        """What the new state of the job asks for."""
        if state is State.SCHEDULED:
            self._promotion.expect_due(delay_seconds)
        elif state is State.READY:
            self._poll_timer.look_now()
        elif state is State.FAILED:
            self._dead_letters.want()
            self._failure_calls.call_later(ended)
