"""The ends of runs: what the main loop does when one is over here, and once that is written.

Calls `on_failure`, and the instruments, once a failure is committed: in a thread, so that a slow function delays no
claim.

Sends Django's task_finished once the finish is committed: in a thread, so that a slow receiver delays no claim.

The TaskResult of a run that is over, as the job's row says it, without reading the row.

What instruments put around a run, and what they are told of its end.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.db import close_old_connections, connections

from pgonly_django import instruments
from pgonly_django.compat import TaskError, task_finished
from pgonly_django.context.run import Run
from pgonly_django.error_texts import cut_our_frames
from pgonly_django.events import emit
from pgonly_django.instruments import JobRun, failures, sends_finished
from pgonly_django.models.job import FINISHED, SUSPECT_FROM, Job, State
from pgonly_django.queue.claim import UnknownTasks
from pgonly_django.queue.finish import Finish, Outcome
from pgonly_django.tasks.backend import has_receivers
from pgonly_django.tasks.failures import call_on_failure, on_failure_functions
from pgonly_django.tasks.result import STATUS, result_of
from pgonly_django.worker import forked_child, job_log
from pgonly_django.worker.claiming import PollTimer, Prefetch, Promotion, Room
from pgonly_django.worker.django_connections import clean_up_connections, take_from
from pgonly_django.worker.duties.dead_letters import DeadLettersWanted
from pgonly_django.worker.ending import Ended
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.job_stats import JobStats
from pgonly_django.worker.limited_claims import LimitedClaims
from pgonly_django.worker.running import note_end
from pgonly_django.worker.stopping import Deadline
from pgonly_django.worker.task_lookup import TaskLookup
from pgonly_django.worker.timers import NEVER


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


# A call that takes longer keeps its thread, and the next failures get another one.
HANGS_SECONDS = 60.0
THREADS_AT_MOST = 4
WAITING_AT_MOST = 10_000

Failure = Ended | str  # a run that ended here, or the id of a job that a rescue ended


class FailureCalls:
    """Best effort: a worker that is killed right after the commit does not call it."""

    def __init__(self, alias: str, tasks: TaskLookup) -> None:
        self.alias = alias
        self.tasks = tasks
        self._inbox: queue.SimpleQueue[Failure | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy_since: float | None = None  # what the newest thread is at

    def call_later(self, failure: Failure) -> None:
        """For the main loop alone."""
        if not _has_failed(failure):
            return
        if self._inbox.qsize() >= WAITING_AT_MOST:
            message = (
                f"{WAITING_AT_MOST:,} failures wait for their on_failure; {_name_of(failure)} is left out."
            )
            emit("worker.on_failure_left_out", message, level=logging.ERROR)
            return
        self._inbox.put(failure)
        if not self._threads:
            self._start_thread()

    def call_now(self, failure: Failure) -> None:
        """In this thread. Raises nothing."""
        if _has_failed(failure):
            self._tried(failure)

    @property
    def are_going(self) -> bool:
        return self._busy_since is not None or not self._inbox.empty()

    def next_check(self, now: float) -> float:
        """When replace_stuck() may have something to do."""
        return NEVER if self._inbox.empty() else (self._busy_since or now) + HANGS_SECONDS

    def replace_stuck(self, now: float) -> None:
        """Where a call does not return, let another thread go on with the failures behind it."""
        since = self._busy_since
        if since is not None and now - since > HANGS_SECONDS and not self._inbox.empty():
            self._busy_since = None  # said once
            alive = [thread for thread in self._threads if thread.is_alive()]
            message = (
                f"An on_failure has not returned for {HANGS_SECONDS:g} s. Threads stuck so: {len(alive)}."
            )
            emit("worker.on_failure_hangs", message, level=logging.ERROR)
            if len(alive) < THREADS_AT_MOST:
                self._threads = alive
                self._start_thread()

    def rest(self) -> None:
        """Let the thread end, whose connections may be open. For when it has nothing to do."""
        if self._threads:
            self._inbox.put(None)
            self._threads = []

    def close(self, timeout: float) -> None:
        """Wait until all are called, at most `timeout` seconds."""
        if self._threads:
            self._inbox.put(None)
            self._threads[-1].join(timeout)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name="pgonly-on-failure", daemon=True)
        with contextlib.suppress(RuntimeError):  # the system starts no more threads
            thread.start()
            self._threads = [*self._threads, thread]

    def _serve(self) -> None:
        while not self._is_replaced and (failure := take_from(self._inbox)) is not None:
            self._busy_since = time.monotonic()
            self._tried(failure)
            if forked_child.is_child:
                forked_child.leave()
            with contextlib.suppress(BaseException):
                clean_up_connections(f"on_failure of {_name_of(failure)}")
            if not self._is_replaced:
                self._busy_since = None
        connections.close_all()

    @property
    def _is_replaced(self) -> bool:
        """Of a thread whose call hung, once it returns."""
        return threading.current_thread() in self._threads[:-1]

    def _tried(self, failure: Failure) -> None:
        try:
            if failures.functions:
                self._tell_instruments(failure)
            self._call(failure)
        except BaseException:  # noqa: BLE001 - code of the project may raise anything; the next job counts
            _emit_failed(failure)

    def _tell_instruments(self, failure: Failure) -> None:
        if isinstance(failure, Ended):
            tell_failed(failure)
        else:
            tell_crashed(self._row(failure))

    def _call(self, failure: Failure) -> None:
        row: Any = failure.run.job if isinstance(failure, Ended) else self._row(failure)
        functions = on_failure_functions(self.tasks.options_of(row))
        if not functions:
            return
        error = failure.error if isinstance(failure, Ended) else None
        result = self._result(failure)
        for function in functions:
            try:
                call_on_failure(function, result, error)
            except BaseException:  # noqa: BLE001 - likewise; the other function counts
                _emit_failed(failure)

    def _result(self, failure: Failure) -> Any:
        result = None
        if isinstance(failure, Ended) and failure.finish is not None:
            result = result_of_end(failure.run, failure.finish)
        job_id = failure if isinstance(failure, str) else failure.run.job.id
        return result or result_of(self._row(job_id))

    def _row(self, job_id: str) -> Job:
        return Job.objects.using(self.alias).get(pk=job_id)


def _has_failed(failure: Failure) -> bool:
    return isinstance(failure, str) or (failure.finish is not None and failure.finish.state is State.FAILED)


def _emit_failed(failure: Failure) -> None:
    message = f"The on_failure of {_name_of(failure)} failed"
    with contextlib.suppress(BaseException):  # a handler of the project's may raise too
        emit("worker.on_failure_failed", message, level=logging.ERROR, exc_info=True)


def _name_of(failure: Failure) -> str:
    return failure if isinstance(failure, str) else f"{failure.run.job.task} {failure.run.job.id}"


CLOSE = "close"  # in the place of a job's id


class FinishedSignals:
    """At least once for a job that ends while its worker lives; a worker killed right after the commit sends none."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._inbox: queue.SimpleQueue[Ended | str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="pgonly-task-finished", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wants_successes(self) -> bool:
        return has_receivers(task_finished, logging.INFO)

    def send_later(self, ended: Ended) -> None:
        if _is_told(ended):
            self._inbox.put(ended)

    def send_now(self, ended: Ended) -> None:
        """In this thread. Raises nothing."""
        if _is_told(ended):
            self._send(ended)

    def rest(self) -> None:
        """Close the connections of its thread, which opens others for the next job."""
        self._inbox.put(CLOSE)

    def close(self, timeout: float) -> None:
        """Wait until all are sent, at most `timeout` seconds."""
        self._inbox.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def send_for_row(self, job_id: str) -> None:
        """For a job that a rescue ended: its own worker is dead."""
        self._inbox.put(job_id)

    def _serve(self) -> None:
        while (ended := take_from(self._inbox)) is not None:
            if ended is CLOSE:
                with contextlib.suppress(Exception):  # a connection may break while it is closed
                    connections.close_all()
                continue
            self._send(ended)
            if forked_child.is_child:  # a receiver has forked
                forked_child.leave()
            if self._inbox.empty():
                with contextlib.suppress(Exception):  # a connection may break while it is closed
                    close_old_connections()
        connections.close_all()

    def _send(self, ended: Ended | str) -> None:
        try:
            if isinstance(ended, str):
                _send(result_of(Job.objects.using(self.alias).get(pk=ended)), None)
            else:
                _send_for_run(ended)
        except BaseException:  # noqa: BLE001 - a receiver of the project may raise anything; the next job counts
            _emit_signal_failed(ended)


def _is_told(ended: Ended) -> bool:
    """Whether the job has finished, and somebody listens."""
    if ended.finish is None or ended.finish.state not in FINISHED:
        return False
    return has_receivers(
        task_finished, logging.INFO if ended.finish.state is State.SUCCEEDED else logging.ERROR
    )


def _send_for_run(ended: Ended) -> None:
    assert ended.finish is not None
    result = result_of_end(ended.run, ended.finish)
    if result is not None:
        _send(result, ended.error)


def _emit_signal_failed(ended: Ended | str) -> None:
    what = ended if isinstance(ended, str) else f"{ended.run.job.task} {ended.run.job.id}"
    message = f"task_finished could not be sent for {what}"
    with contextlib.suppress(BaseException):  # a handler of the project's may raise as its receiver did
        emit("worker.finished_signal_failed", message, level=logging.ERROR, exc_info=True)


def _send(result: Any, error: BaseException | None) -> None:
    token = sends_finished.set(True)
    try:
        _send_signal(result, error)
    finally:
        sends_finished.reset(token)


def _send_signal(result: Any, error: BaseException | None) -> None:
    """Its receivers find `error` where Django promises it, in sys.exc_info()."""
    sender = type(result.task.get_backend())
    if error is None:
        task_finished.send(sender, task_result=result)
        return
    try:
        raise error  # noqa: TRY301 - this is how it gets there
    except BaseException:  # noqa: BLE001 - likewise
        cut_our_frames(error)
        task_finished.send(sender, task_result=result)


def result_of_end(run: Run, finish: Finish) -> Any:
    """For those who are told of the job's end. None where the task was not found."""
    if run.result is None:
        return None
    result = copy.copy(run.result)
    changes: dict[str, Any] = {"status": STATUS[finish.state], "finished_at": run.now()}
    if finish.result is not None:
        changes["_return_value"] = json.loads(finish.result)
    entry = json.loads(finish.entry) if finish.entry is not None else {}
    if entry.get("exception"):
        told = TaskError(exception_class_path=entry["exception"], traceback=entry["traceback"])
        changes["errors"] = [*result.errors, told]
    vars(result).update(changes)
    return result


LOST, CRASHED = "lost", "crashed"


def tell_failed(ended: Ended) -> None:
    """Of a run whose job has failed, once that is written."""
    seen: JobRun = ended.run.seen or JobRun(ended.run.job, ended.run.worker)
    note_end(seen, ended)
    instruments.call_all(instruments.failures, seen)


def tell_crashed(job: Job) -> None:
    """Of a job whose worker has died too often."""
    seen = JobRun(job, worker="", outcome=CRASHED, state=str(job.state))
    instruments.call_all(instruments.failures, seen)


def tell_stop(seconds: float) -> None:
    """Returns after so many seconds at the latest, also where an instrument hangs."""
    if not instruments.stops.functions:
        return
    thread = threading.Thread(
        target=instruments.call_all, args=(instruments.stops, seconds), name="pgonly-instruments", daemon=True
    )
    with suppress(RuntimeError):  # the system starts no more threads
        thread.start()
        thread.join(seconds)
