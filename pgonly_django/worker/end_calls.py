"""Calls code of the project about ended runs: receivers of task_finished, on_failure, instruments. It does so in
threads, so that a slow function delays no claim."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from django.db import connections

from pgonly_django import instruments
from pgonly_django.compat import TaskError, task_finished
from pgonly_django.context.run import Run
from pgonly_django.error_texts import cut_our_frames
from pgonly_django.events import emit
from pgonly_django.instruments import JobRun, sends_finished
from pgonly_django.models.job import FINISHED, Job, State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.finish import Finish
from pgonly_django.tasks.backend import has_receivers
from pgonly_django.tasks.failures import call_on_failure, on_failure_functions
from pgonly_django.tasks.result import STATUS
from pgonly_django.tasks.stored_jobs import result_of
from pgonly_django.worker import forked_child
from pgonly_django.worker.batches import BatchCloser
from pgonly_django.worker.django_connections import clean_up_connections, take_from
from pgonly_django.worker.duties import DeadLettersWanted
from pgonly_django.worker.ending import EndedRun, changed_result
from pgonly_django.worker.inbox import Tell
from pgonly_django.worker.job_log import EndLog
from pgonly_django.worker.maintenance import Maintenance
from pgonly_django.worker.observing import note_end
from pgonly_django.worker.task_lookup import TaskLookup
from pgonly_django.worker.timers import NEVER, Timer

# A call that takes longer keeps its thread, and the next ones get another.
HANGS_SECONDS = 60.0
THREADS_AT_MOST = 4
WAITING_AT_MOST = 10_000
REST = "rest"  # in the place of a job's id

Ended = EndedRun | str  # a run that ended here, or the id of a job whose finish a rescue has written


class CallThread(Timer):
    """Makes calls one after the other, in a thread that starts with the first of them."""

    keeps_connections = False  # from one call to the next, while there is one

    def __init__(self, name: str, alias: str) -> None:
        super().__init__()
        self._name, self.alias = name, alias
        self._inbox: queue.SimpleQueue[Ended | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy_since: float | None = None  # what the newest thread is at

    def wants(self, ended: Ended) -> bool:
        raise NotImplementedError

    def call(self, ended: Ended) -> None:
        """Raises nothing."""
        raise NotImplementedError

    def call_later(self, ended: Ended) -> None:
        """Adds a call. Used by the main loop alone."""
        if self.wants(ended):
            self._inbox.put(ended)
            if not self._threads:
                self._start_thread()

    def call_now(self, ended: Ended) -> None:
        """Calls it in this thread. Raises nothing."""
        if self.wants(ended):
            self.call(ended)

    def row(self, ended: Ended) -> Job:
        return Job.objects.using(self.alias).get(pk=ended if isinstance(ended, str) else ended.run.job.id)

    def result(self, ended: Ended) -> Any:
        """The job's TaskResult. Its row is not read for a run that ended here; None where the task was not found."""
        if isinstance(ended, str) or ended.finish is None:
            return result_of(self.row(ended))
        return result_of_end(ended.run, ended.finish)

    @property
    def are_going(self) -> bool:
        return self._busy_since is not None or not self._inbox.empty()

    def rest(self) -> None:
        """Closes the thread's connections; the next call opens others. The thread stays: close() waits for it."""
        if self._threads:
            self._inbox.put(REST)

    def close(self, timeout: float) -> None:
        """Waits until all are called, at most `timeout` seconds."""
        if self._threads:
            self._inbox.put(None)
            self._threads[-1].join(timeout)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
        with suppress(RuntimeError):  # the system starts no more threads
            thread.start()
            self._threads = [*self._threads, thread]

    def _serve(self) -> None:
        while not self._is_replaced and (ended := take_from(self._inbox)) is not None:
            if ended is REST:
                with suppress(Exception):  # a connection may break while it is closed
                    connections.close_all()
                continue
            self._busy_since = time.monotonic()
            self.call(ended)
            if forked_child.is_child:  # code of the project has forked
                forked_child.leave()
            if not self.keeps_connections or self._inbox.empty():
                clean_up_connections(f"{self._name} of {_name_of(ended)}")
            if not self._is_replaced:
                self._busy_since = None
        connections.close_all()

    @property
    def _is_replaced(self) -> bool:
        """Called by a thread whose call hung, after the call returns."""
        return threading.current_thread() in self._threads[:-1]


class SignalCalls(CallThread):
    """Sends Django's task_finished: at least once for a job that ends while its worker lives. A worker that is killed
    right after the commit sends none."""

    keeps_connections = True

    def __init__(self, alias: str) -> None:
        super().__init__("pgonly-task-finished", alias)

    def wants(self, ended: Ended) -> bool:
        if isinstance(ended, str):
            return True
        finish = ended.finish
        if finish is None or finish.state not in FINISHED:
            return False
        level = logging.INFO if finish.state is State.SUCCEEDED else logging.ERROR
        return has_receivers(task_finished, level)

    def call(self, ended: Ended) -> None:
        try:
            result = self.result(ended)
            if result is not None:
                _send_signal(result, _error_of(ended))
        except BaseException:  # noqa: BLE001 - a receiver of the project may raise anything; the next job counts
            message = f"task_finished could not be sent for {_name_of(ended)}"
            with suppress(BaseException):  # a handler of the project's may raise as its receiver did
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


class FailureCalls(CallThread):
    """Calls `on_failure`, and the instruments. A worker that is killed right after the commit does not."""

    def __init__(self, alias: str, tasks: TaskLookup) -> None:
        super().__init__("pgonly-on-failure", alias)
        self.tasks = tasks

    @property
    def due_at(self) -> float:
        return NEVER if self._inbox.empty() else (self._busy_since or time.monotonic()) + HANGS_SECONDS

    def wants(self, ended: Ended) -> bool:
        has_failed = isinstance(ended, str) or (
            ended.finish is not None and ended.finish.state is State.FAILED
        )
        if has_failed and self._inbox.qsize() >= WAITING_AT_MOST:
            what = f"{WAITING_AT_MOST:,} failures wait for their on_failure; {_name_of(ended)} is left out."
            emit("worker.on_failure_left_out", what, level=logging.ERROR)
            return False
        return has_failed

    def call(self, ended: Ended) -> None:
        with _logging_failure(ended):
            if instruments.failures.functions:
                self._tell_instruments(ended)
            row: Any = self.row(ended) if isinstance(ended, str) else ended.run.job
            for function in on_failure_functions(self.tasks.options_of(row)):
                with _logging_failure(ended):
                    result = self.result(ended) or result_of(self.row(ended))
                    call_on_failure(function, result, _error_of(ended))

    def _tell_instruments(self, ended: Ended) -> None:
        if isinstance(ended, str):  # its worker has died too often
            job = self.row(ended)
            seen = JobRun(job, worker="", outcome=Outcome.CRASHED.value, state=str(job.state))
        else:
            seen = ended.run.seen or JobRun(ended.run.job, ended.run.worker)
            note_end(seen, ended)
        instruments.call_all(instruments.failures, seen)

    def run(self) -> None:
        """Runs the call. If a call does not return, another thread continues with the failures after it."""
        since = self._busy_since
        if since is None or self._inbox.empty() or time.monotonic() - since <= HANGS_SECONDS:
            return
        self._busy_since = None  # said once
        alive = [thread for thread in self._threads if thread.is_alive()]
        message = (
            f"An on_failure has not returned for {HANGS_SECONDS:g} s. Threads that are stuck: {len(alive)}."
        )
        emit("worker.on_failure_hangs", message, level=logging.ERROR)
        if len(alive) < THREADS_AT_MOST:
            self._threads = alive
            self._start_thread()


@contextmanager
def _logging_failure(ended: Ended) -> Iterator[None]:
    """Logs what code of the project raises, so that the next function, and the next job, are called."""
    try:
        yield
    except BaseException:  # noqa: BLE001 - see above
        message = f"The on_failure of {_name_of(ended)} failed"
        with suppress(BaseException):  # a handler of the project's may raise too
            emit("worker.on_failure_failed", message, level=logging.ERROR, exc_info=True)


def _name_of(ended: Ended) -> str:
    return ended if isinstance(ended, str) else f"{ended.run.job.task} {ended.run.job.id}"


def _error_of(ended: Ended) -> BaseException | None:
    return None if isinstance(ended, str) else ended.error


def result_of_end(run: Run, finish: Finish) -> Any:
    """The TaskResult of a run, as the job's row says it, without reading the row; None where the task was not found."""
    changes: dict[str, Any] = {"status": STATUS[finish.state]}
    if finish.result is not None:
        changes["_return_value"] = json.loads(finish.result)
    entry, told = json.loads(finish.entry) if finish.entry is not None else {}, None
    if entry.get("exception"):
        told = TaskError(exception_class_path=entry["exception"], traceback=entry["traceback"])
    return changed_result(run, told, **changes)


class EndCalls:
    """Tells the project, and this package, of ended runs: log, signals, on_failure, dead letters, batches."""

    def __init__(
        self, alias: str, tasks: TaskLookup, maintenance: Maintenance, batches: BatchCloser, tell: Tell
    ) -> None:
        self.log, self.batches = EndLog(), batches
        self.signals = SignalCalls(alias)
        self.failures = FailureCalls(alias, tasks)
        self.dead_letters = DeadLettersWanted(maintenance, tell)

    @property
    def are_going(self) -> bool:
        return self.enqueues or self.signals.are_going or self.failures.are_going

    @property
    def enqueues(self) -> bool:
        """Whether dead letters or the callbacks of batches may be about to be enqueued."""
        return self.dead_letters.are_due or self.batches.are_due

    def hear_rescued(self, job_id: str, *, has_failed: bool) -> None:
        """Called for a job of a dead worker that this one or its supervisor has rescued."""
        self.signals.call_later(job_id)
        if has_failed:
            self.dead_letters.want()
            self.failures.call_later(job_id)

    def rest(self) -> None:
        for each in (self.signals, self.failures, self.batches):
            each.rest()

    def close(self, until: float) -> None:
        """Waits until all are called, until then at most. The log stays open: they may log."""
        for thread in (self.signals, self.failures):
            thread.close(max(until - time.monotonic(), 0.0))


def stop_instruments(seconds: float) -> None:
    """Returns after this number of seconds at the latest, also where an instrument hangs."""
    if not instruments.stops.functions:
        return
    thread = threading.Thread(
        target=instruments.call_all, args=(instruments.stops, seconds), name="pgonly-instruments", daemon=True
    )
    with suppress(RuntimeError):  # the system starts no more threads
        thread.start()
        thread.join(seconds)
