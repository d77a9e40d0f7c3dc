"""Sends task_finished once the finish is committed, in a thread of its own: a slow receiver delays no claim."""

from __future__ import annotations

import json
import queue
import threading
from typing import Any

from django.db import close_old_connections, connections

from pgonly_django.compat import TaskError, TaskResultStatus, task_finished
from pgonly_django.events import emit
from pgonly_django.models.job import State
from pgonly_django.queue.finish import Finish
from pgonly_django.tasks.backend import PostgresBackend
from pgonly_django.worker.executor import Ended

FINAL = {
    State.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    State.FAILED: TaskResultStatus.FAILED,
    State.CANCELLED: TaskResultStatus.FAILED,
}


class Announcer:
    """At least once for a job that ends while its worker lives; a worker killed right after the commit sends none."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Ended | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="pgonly-announcer", daemon=True)
        self._thread.start()

    def announce(self, ended: Ended) -> None:
        if ended.finish is not None and ended.finish.state in FINAL:
            self._inbox.put(ended)

    def close(self, timeout: float) -> None:
        """Wait until what was announced has been sent, at most `timeout` seconds."""
        self._inbox.put(None)
        self._thread.join(timeout)

    def _serve(self) -> None:
        while (ended := self._inbox.get()) is not None:
            assert ended.finish is not None
            try:
                self._send(ended, ended.finish)
            except Exception:  # noqa: BLE001 - a receiver of the user's may raise anything; the next job counts
                message = f"A receiver of task_finished failed for {ended.run.job.task} {ended.run.job.id}"
                emit("worker.announcement_failed", message, level=40, exc_info=True)
            if self._inbox.empty():
                close_old_connections()
        connections.close_all()

    def _send(self, ended: Ended, finish: Finish) -> None:
        result: Any = ended.result
        if result is None:
            return
        put = object.__setattr__
        put(result, "status", FINAL[finish.state])
        put(result, "finished_at", ended.run.now())
        if finish.result is not None:
            put(result, "_return_value", json.loads(finish.result))
        if finish.entry is not None:
            _add_error(result, json.loads(finish.entry))
        task_finished.send(PostgresBackend, task_result=result)


def _add_error(result: Any, entry: dict[str, Any]) -> None:
    if entry.get("exception"):
        error = TaskError(exception_class_path=entry["exception"], traceback=entry["traceback"])
        result.errors.append(error)
