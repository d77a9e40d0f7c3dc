"""Sends Django's task_finished once the finish is committed: in a thread, so that a slow receiver delays no claim."""

import contextlib
import logging
import queue
import threading
from typing import Any

from django.db import close_old_connections, connections

from pgonly_django.compat import task_finished
from pgonly_django.events import emit
from pgonly_django.instruments import sends_finished
from pgonly_django.models.job import FINISHED, Job, State
from pgonly_django.tasks.backend import has_receivers
from pgonly_django.tasks.result import result_of
from pgonly_django.worker import forked_child
from pgonly_django.worker.idle_connections import take_from
from pgonly_django.worker.outcomes import Ended
from pgonly_django.worker.results import result_of_end
from pgonly_django.worker.tracebacks import cut_our_frames

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
            _emit_failed(ended)


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


def _emit_failed(ended: Ended | str) -> None:
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
