"""Calls `on_failure`, and the instruments, once a failure is committed: in a thread, so that a slow function delays no
claim."""

import contextlib
import logging
import queue
import threading
import time
from typing import Any

from django.db import connections

from pgonly_django.events import emit
from pgonly_django.instruments import failures
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.tasks.failures import call_on_failure, on_failure_functions
from pgonly_django.tasks.result import result_of
from pgonly_django.worker import forked_child
from pgonly_django.worker.connection_cleanup import clean_up_connections
from pgonly_django.worker.idle_connections import take_from
from pgonly_django.worker.observed import tell_crashed, tell_failed
from pgonly_django.worker.outcomes import Ended
from pgonly_django.worker.poll_timer import NEVER
from pgonly_django.worker.results import result_of_end
from pgonly_django.worker.task_lookup import TaskLookup

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
