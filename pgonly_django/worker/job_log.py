"""The log of runs. The line of an attempt that failed, with the traceback, is made where it failed; all others are made
after their end is written. A separate thread hands them to the handlers. At DEBUG each start has a line as well, which
its slot logs.

A line costs more than a job that does little: where very many jobs succeed, a line tells of all that succeeded within a
second.
"""

import contextlib
import contextvars
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from select import select
from typing import Any

from pgonly_django.conf import settings
from pgonly_django.context.run import Run
from pgonly_django.events import emit, handed_to, has_listeners, tell_listeners
from pgonly_django.exceptions import Retry, Snooze
from pgonly_django.logs import facts_of
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.claim import UNKNOWN_FOR
from pgonly_django.queue.finish import Finish
from pgonly_django.wording import duration
from pgonly_django.worker.ending import EndedRun, how_it_ended
from pgonly_django.worker.lanes import Lane
from pgonly_django.worker.timers import NEVER, Timer

LEFT_NAMED = 20  # jobs in the line of a worker that leaves some unwritten
OWN_LINES_PER_SECOND = 100  # of jobs that succeed; where more of them do, none has its own line
WAITING_AT_MOST = 20_000  # lines
WHOLE_AT_MOST = 1_000  # of them with arguments, results and frames of a traceback, which may be large
TOO_SLOW = b"A handler of the log is too slow: lines of the last jobs are missing.\n"

# These ends have their line, with a traceback where there is one, from log_failure().
TOLD_AT_ONCE = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.POSTPONED)


class EndLog(Timer):
    """Hands the ends of runs, and what is emitted within takes_events(), to a separate thread, which logs it: a handler
    of the project may be slow, or hang, and delays no claim. It keeps the order, and loses
    nothing at a stop that leaves it the time. While a handler is so slow that WAITING_AT_MOST lines wait, further ends
    are only counted. As a timer it is due when a second ends of whose successes no line tells yet.

    The QueueHandler and QueueListener of the standard library do not replace it: an exception of a filter ends the
    thread of the listener, its stop() waits for a handler that hangs, and a record in the queue has neither its
    exception nor its context.
    """

    def __init__(self) -> None:
        super().__init__(NEVER)
        self._lane = Lane("pgonly-log", keeps_connections=True)
        self._noted: list[EndedRun] = []  # since the last send()
        self._left_out = 0
        # The successes of a second. While one has more than OWN_LINES_PER_SECOND, those of the next one are held until
        # its end: then a line for each task tells of them, or each has its own where they were few.
        self._began, self._count, self._is_busy = 0.0, 0, False  # whether the second before had many
        self._held: list[EndedRun] = []  # the first ones of those without a line
        self._run_times: dict[str, list[float]] = {}  # of all without a line, by task

    def takes_events(self) -> AbstractContextManager[None]:
        """Makes the log's thread log what this thread emits within the block: one that may not wait for a handler, such
        as that of the main loop or of the heartbeat."""
        return handed_to(self.say)

    def say(self, event: Callable[[], None]) -> None:
        """Logs by calling `event`. For any thread."""
        self._lane.submit(event, "a line")

    def rest(self) -> None:
        """Closes the connections that handlers have opened."""
        self._lane.rest()

    def log_failure(self, run: Run, finish: Finish, error: BaseException, *, is_news: bool = True) -> None:
        """Logs a failure from the thread where it happened, whose context (a trace, a scope) its handlers see. Where so
        many lines wait that this one is left out, send() counts it."""
        waiting = self._lane.waiting
        if waiting < WAITING_AT_MOST:
            with handed_to(self._say_with_context):
                log_failure(run, finish, error, is_news=is_news, is_whole=waiting < WHOLE_AT_MOST)

    def note(self, ended: EndedRun) -> None:
        """Notes that the end of a run is written."""
        self._noted.append(ended)

    def send(self) -> None:
        """Lets what was noted be logged: once for many ends, after the jobs that were claimed have begun."""
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        at, now = time.time(), time.monotonic()
        if now >= self._began + 1.0:
            self._begin_second(now)
        has_own_line = settings().log_each_job
        for ended in noted:
            ended.at, ended.took_seconds = at, _seconds_of(ended)  # it may wait for long
            if has_own_line or ended.finish is None or ended.finish.state is not State.SUCCEEDED:
                self._log(ended)
                continue
            self._count += 1
            if not self._is_busy and self._count <= OWN_LINES_PER_SECOND:
                self._log(ended)
            else:
                self._sum_up(ended)
        self.at = self._began + 1.0 if self._run_times else NEVER

    def run(self) -> None:
        """Logs what is held, at the end of a second."""
        self._is_busy, held, run_times = self._count > OWN_LINES_PER_SECOND, self._held, self._run_times
        self._count, self._held, self._run_times, self.at = 0, [], {}, NEVER
        for ended in held:
            (self._tell_of if self._is_busy else self._log)(ended)
        if self._is_busy:
            seconds = time.monotonic() - self._began
            for task, times in run_times.items():
                if self._has_room(len(times)):
                    self.say(partial(log_many, task, seconds, times))

    def close(self, timeout: float) -> None:
        """Waits until all is logged, at most `timeout` seconds."""
        with self.takes_events():
            self.send()
            self.run()
            self._tell_left_out()
        if not self._lane.close(timeout):
            with contextlib.suppress(Exception):  # not by sys.stderr.write(), in which a handler may hang
                if select([], [sys.stderr], [], 0)[1]:
                    os.write(sys.stderr.fileno(), TOO_SLOW)

    def _begin_second(self, now: float) -> None:
        if self._count:
            self.run()
        self._is_busy = self._is_busy and now < self._began + 2.0
        self._began = now
        if self._lane.waiting < WAITING_AT_MOST:
            self._tell_left_out()

    def _sum_up(self, ended: EndedRun) -> None:
        if len(self._held) < OWN_LINES_PER_SECOND:
            self._held.append(ended)
        else:
            self._tell_of(ended)
        self._run_times.setdefault(ended.run.job.task, []).append(ended.took_seconds)

    def _log(self, ended: EndedRun) -> None:
        if self._has_room():
            self.say(partial(log_end, ended if self._lane.waiting < WHOLE_AT_MOST else _without_data(ended)))

    def _tell_of(self, ended: EndedRun) -> None:
        """Tells the listeners of an end that has no line of its own."""
        if has_listeners() and self._lane.waiting < WAITING_AT_MOST:
            self.say(partial(tell_listeners, "worker.job_ended", _facts_of_end(ended)))

    def _has_room(self, ends: int = 1) -> bool:
        """Returns whether another line may wait. Counts its ends if not."""
        has_room = self._lane.waiting < WAITING_AT_MOST
        self._left_out += 0 if has_room else ends
        return has_room

    def _tell_left_out(self) -> None:
        if left_out := self._left_out:
            self._left_out = 0
            message = f"The handlers of the log are too slow: {left_out:,} jobs have ended without a line."
            emit("worker.ends_not_logged", message, level=logging.WARNING, jobs=left_out)

    def _say_with_context(self, event: Callable[[], None]) -> None:
        self.say(partial(contextvars.copy_context().run, event))


def _without_data(ended: EndedRun) -> EndedRun:
    """Returns what the log says of the end, without arguments and result of the job."""
    run, finish = ended.run, ended.finish
    job = run.job._replace(args=[], kwargs={}, errors=[], metadata={})
    slim = Run(job, run.alias, run.claimed_at, run.lease_until, run.worker, run.worker_id)
    result = None if finish is None else replace(finish, result=None)
    return replace(ended, run=slim, finish=result)


def log_start(run: Run) -> None:
    job = run.job
    message = f"{job.task} {job.id}: started ({_attempt(run)})."
    emit("worker.job_started", message, level=logging.DEBUG, queue=job.queue, **facts_of(run))


def log_many(task: str, seconds: float, times: list[float]) -> None:
    """Logs many successes. `times`: how long each took; they ended within this number of `seconds`."""
    times.sort()
    count = len(times)
    median, percentile = times[count // 2], times[count * 95 // 100]
    message = (
        f"{task}: {count:,} succeeded in {seconds:.1f} s, p50 {duration(median)}, p95 {duration(percentile)}."
    )
    emit("worker.jobs_succeeded", message, task=task, jobs=count, p50_seconds=median, p95_seconds=percentile)


def log_end(ended: EndedRun) -> None:
    run, finish = ended.run, ended.finish
    if finish is None or not finish.started or (ended.error is not None and finish.outcome in TOLD_AT_ONCE):
        return
    how, seconds = how_it_ended(finish), _seconds_of(ended)
    entry = json.loads(finish.entry) if finish.entry else {}
    # Of a Snooze it only says for how long, as the line does.
    reason = "" if isinstance(ended.error, Snooze) else entry.get("reason") or _error_in(entry)
    if finish.outcome is Outcome.WAITING:
        reason = ", ".join(wait.name for wait in run.waits)
    message = f"{_ended(run, how.value, seconds)}{_then(finish)}{f': {reason}' if reason else '.'}"
    # An error that holds the job is one for a person to look into.
    error = ended.error if how is Outcome.HELD and "exception" in entry else None
    facts = _facts_of_end(ended)
    emit("worker.job_ended", message, level=_level(finish), exc_info=error, at=ended.at, **facts)


def log_failure(
    run: Run, finish: Finish, error: BaseException, *, is_news: bool = True, is_whole: bool = True
) -> None:
    """Logs the attempt that failed, with its traceback, or the task that this worker does not know: a warning where
    that `is_news`. One that was cut off has its line by now: what its thread raises in the end changes nothing. With
    `is_whole` False the line has the traceback as text, and keeps no frames."""
    if run.abandoned:
        return
    facts = facts_of(run)
    if finish.outcome is Outcome.POSTPONED:
        said = str(error).rstrip(".")
        message = f"{run.job.task} {run.job.id}: {said}. It is looked for again for {duration(UNKNOWN_FOR)}."
        message += " If this worker has older code than the job, restart it."
        emit("worker.task_unknown", message, level=logging.WARNING if is_news else logging.DEBUG, **facts)
    elif finish.outcome in TOLD_AT_ONCE:
        name = type(error).__name__
        how = f"failed with {name}" if finish.outcome is Outcome.FAILED else finish.outcome.value
        level = logging.ERROR if finish.state is State.FAILED else logging.WARNING
        facts |= {"outcome": finish.outcome.value, "error": name, "seconds": run.seconds}
        message = f"{_ended(run, how, run.seconds)}{_then(finish)}."
        if not is_whole:
            message += f"\n{json.loads(finish.entry or '{}').get('traceback', '').rstrip()}"
        emit("worker.attempt_failed", message, level=level, exc_info=is_whole and error, **facts)


def log_fenced(run: Run) -> None:
    """Logs that what the run left was not written (promise 2)."""
    message = f"{run.job.task} {run.job.id} belongs to another worker now; its end was not written."
    facts = {"job_id": run.job.id, "task": run.job.task, "attempt": run.job.attempt}
    emit("worker.finish_fenced", message, level=logging.WARNING, **facts)


def log_left(job_ids: list[str], *, is_away: bool) -> None:
    """Logs that the worker ends without having written the ends of these."""
    reason = "PostgreSQL is unavailable" if is_away else "their rows are locked"
    message = (
        f"Leaving without having given back {len(job_ids)} job(s), since {reason}; they run elsewhere after their "
        f"leases end: {', '.join(job_ids[:LEFT_NAMED])}{' ...' if len(job_ids) > LEFT_NAMED else ''}"
    )
    emit("worker.jobs_left", message, level=logging.WARNING, jobs=job_ids)


def _seconds_of(ended: EndedRun) -> float:
    return ended.took_seconds or ended.run.seconds


def _facts_of_end(ended: EndedRun) -> dict[str, Any]:
    outcome = "" if ended.finish is None else how_it_ended(ended.finish).value
    return {**facts_of(ended.run), "outcome": outcome, "seconds": _seconds_of(ended)}


def _level(finish: Finish) -> int:
    """Returns the level. Discarded and held jobs wait for a person."""
    if finish.state is State.FAILED and how_it_ended(finish).is_error:
        return logging.ERROR
    return logging.WARNING if finish.state in (State.FAILED, State.HELD) else logging.INFO


def _ended(run: Run, how: str, seconds: float) -> str:
    job = run.job
    return f"{job.task} {job.id}: {how} after {duration(seconds)} ({_attempt(run)})"


def _attempt(run: Run) -> str:
    return f"attempt {run.job.attempt} of {run.job.max_attempts}"


def _error_in(entry: dict[str, Any]) -> str:
    """Returns the error in one line, for ends whose traceback is not logged."""
    name, text = (
        entry.get("exception", "").rpartition(".")[2],
        entry.get("message", "").strip().partition("\n")[0],
    )
    return text if name == Retry.__name__ else ": ".join(filter(None, (name, text)))


def _then(finish: Finish) -> str:
    """Returns what becomes of a job that has not done its work."""
    if finish.outcome not in (*TOLD_AT_ONCE, Outcome.RETRIED, Outcome.SNOOZED):
        return ""
    if finish.state is State.FAILED:
        return "; it is not started again"
    return f"; again in {duration(finish.delay_seconds or 0.0)}"
