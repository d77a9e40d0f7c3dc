"""What follows an end that is written: the log, and calls of code of the project about it. Receivers of task_finished,
on_failure and instruments are called in lanes, so that a slow function delays no claim. See "What follows an end" in
ARCHITECTURE.md."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pgonly_django import instruments
from pgonly_django.compat import TaskError, task_finished
from pgonly_django.error_texts import cut_our_frames
from pgonly_django.events import emit
from pgonly_django.instruments import JobRun, sends_finished
from pgonly_django.models.job import FINISHED, Job, State
from pgonly_django.outcomes import Outcome
from pgonly_django.tasks.backend import has_receivers
from pgonly_django.tasks.duties import FAILED
from pgonly_django.tasks.failures import call_on_failure, on_failure_functions
from pgonly_django.tasks.result import STATUS
from pgonly_django.tasks.stored_jobs import result_of
from pgonly_django.worker import lanes
from pgonly_django.worker.ending import EndedRun, changed_result
from pgonly_django.worker.housekeeper import Housekeeper
from pgonly_django.worker.job_log import EndLog
from pgonly_django.worker.lanes import Lane
from pgonly_django.worker.observing import note_end
from pgonly_django.worker.task_lookup import TaskLookup

THREADS_AT_MOST = 4  # of on_failure
WAITING_AT_MOST = 10_000  # failures

Ended = EndedRun | str  # a run that ended here, or the id of a job whose finish a rescue has written


class EndCalls:
    """Tells the project, and this package, of ended runs: log, signals, on_failure, dead letters, batches."""

    def __init__(self, alias: str, tasks: TaskLookup, housekeeper: Housekeeper) -> None:
        self._alias, self._tasks = alias, tasks
        self.log, self.housekeeper = EndLog(), housekeeper
        self.signals = Lane("pgonly-task-finished", keeps_connections=True)
        self.failures = Lane("pgonly-on-failure", threads=THREADS_AT_MOST, tell_hang=_tell_hang)

    def follow(self, ended: EndedRun) -> None:
        """Called when the finish of a run is written."""
        if has_failed(ended):
            self._follow_failure(ended)
        self.log.note(ended)
        if is_signalled(ended):
            self.signals.submit(partial(send_finished, self._alias, ended), _name_of(ended))

    def hear_rescued(self, job_id: str, *, has_failed: bool) -> None:
        """Called for a job of a dead worker that this one or its supervisor has rescued."""
        self.signals.submit(partial(send_finished, self._alias, job_id), job_id)
        if has_failed:
            self._follow_failure(job_id)

    def _follow_failure(self, ended: Ended) -> None:
        self.housekeeper.hear(FAILED)
        if self.failures.waiting < WAITING_AT_MOST:
            self.failures.submit(partial(tell_failure, self._alias, self._tasks, ended), _name_of(ended))
        else:
            what = f"{WAITING_AT_MOST:,} failures wait for their on_failure; {_name_of(ended)} is left out."
            emit("worker.on_failure_left_out", what, level=logging.ERROR)

    @property
    def are_going(self) -> bool:
        return self.enqueues or self.signals.is_going or self.failures.is_going

    @property
    def enqueues(self) -> bool:
        """Whether dead letters or the callbacks of batches may be about to be enqueued."""
        return self.housekeeper.owes

    def rest(self) -> None:
        for each in (self.signals, self.failures, self.log):
            each.rest()

    def close(self, until: float) -> None:
        """Waits until all are called, until then at most. The log stays open: they may log."""
        for lane in (self.signals, self.failures):
            lane.close(max(until - time.monotonic(), 0.0))


def stop_instruments(seconds: float) -> None:
    """Returns after this number of seconds at the latest, also where an instrument hangs."""
    if instruments.stops.functions:
        lane = Lane("pgonly-instruments")
        lane.submit(partial(instruments.call_all, instruments.stops, seconds))
        lane.close(seconds)


# Django's task_finished: at least once for a job that ends while its worker lives.


def is_signalled(ended: EndedRun) -> bool:
    finish = ended.finish
    if finish is None or finish.state not in FINISHED:
        return False
    return has_receivers(task_finished, logging.INFO if finish.state is State.SUCCEEDED else logging.ERROR)


def send_finished(alias: str, ended: Ended) -> None:
    """Sends the signal. What a receiver of the project raises is logged; the next job counts."""
    try:
        result = _result(alias, ended)
        if result is not None:
            _send_signal(result, _error_of(ended))
    except BaseException:  # noqa: BLE001 - see above
        message = f"task_finished could not be sent for {_name_of(ended)}"
        emit("worker.finished_signal_failed", message, level=logging.ERROR, exc_info=True)


def _send_signal(result: Any, error: BaseException | None) -> None:
    """Sends it. Its receivers find `error` where Django promises it, in sys.exc_info()."""
    send = partial(task_finished.send, type(result.task.get_backend()), task_result=result)
    token = sends_finished.set(True)
    try:
        if error is not None:
            raise error  # noqa: TRY301 - this is how it gets there
    except BaseException as raised:  # noqa: BLE001 - likewise
        cut_our_frames(raised)
        send()
    else:
        send()
    finally:
        sends_finished.reset(token)


# After a failure: instruments, and on_failure.


def has_failed(ended: EndedRun) -> bool:
    return ended.finish is not None and ended.finish.state is State.FAILED


def tell_failure(alias: str, tasks: TaskLookup, ended: Ended) -> None:
    """Calls instruments, the task's on_failure and that of all tasks. What one raises is logged."""
    with _logging_failure(ended):
        job: Any = _row(alias, ended) if isinstance(ended, str) else ended.run.job
        if instruments.failures.functions:
            instruments.call_all(instruments.failures, _as_seen(ended, job))
        for function in on_failure_functions(tasks.options_of(job)):
            with _logging_failure(ended):
                result = _result(alias, ended) or result_of(_row(alias, ended))
                call_on_failure(function, result, _error_of(ended))


def _as_seen(ended: Ended, job: Any) -> JobRun:
    if isinstance(ended, str):  # its worker has died too often
        return JobRun(job, worker="", outcome=Outcome.CRASHED.value, state=str(job.state))
    seen = ended.run.seen or JobRun(job, ended.run.worker)
    note_end(seen, ended)
    return seen


@contextmanager
def _logging_failure(ended: Ended) -> Iterator[None]:
    """Logs what code of the project raises, so that the next function, and the next job, are called."""
    try:
        yield
    except BaseException:  # noqa: BLE001 - see above
        message = f"The on_failure of {_name_of(ended)} failed"
        emit("worker.on_failure_failed", message, level=logging.ERROR, exc_info=True)


def _tell_hang(_: str, stuck: int) -> None:
    seconds = lanes.HANGS_SECONDS
    message = f"An on_failure has not returned for {seconds:g} s. Threads that are stuck: {stuck}."
    emit("worker.on_failure_hangs", message, level=logging.ERROR)


# The facts of an end.


def _name_of(ended: Ended) -> str:
    return ended if isinstance(ended, str) else f"{ended.run.job.task} {ended.run.job.id}"


def _error_of(ended: Ended) -> BaseException | None:
    return None if isinstance(ended, str) else ended.error


def _row(alias: str, ended: Ended) -> Job:
    return Job.objects.using(alias).get(pk=ended if isinstance(ended, str) else ended.run.job.id)


def _result(alias: str, ended: Ended) -> Any:
    """The job's TaskResult. Its row is not read for a run that ended here; None where the task was not found."""
    if isinstance(ended, str) or ended.finish is None:
        return result_of(_row(alias, ended))
    finish, told = ended.finish, None
    changes: dict[str, Any] = {"status": STATUS[finish.state]}
    if finish.result is not None:
        changes["_return_value"] = json.loads(finish.result)
    entry = json.loads(finish.entry) if finish.entry is not None else {}
    if entry.get("exception"):
        told = TaskError(exception_class_path=entry["exception"], traceback=entry["traceback"])
    return changed_result(ended.run, told, **changes)
