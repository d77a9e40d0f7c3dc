"""The TaskResult of a run that is over, as the job's row says it, without reading the row."""

from __future__ import annotations

import copy
import json
from typing import Any

from pgonly_django.compat import TaskError, TaskResultStatus
from pgonly_django.context.run import Run
from pgonly_django.queue.finish import Finish
from pgonly_django.tasks.result import STATUS
from pgonly_django.worker.tracebacks import formatted, path_of


def result_after(run: Run, error: BaseException) -> Any:
    """For a backoff: as if this failure were the job's last. None where the task was not found."""
    if run.result is None:
        return None
    told = TaskError(exception_class_path=path_of(error), traceback=formatted(error))
    result = copy.copy(run.result)
    changes = {"status": TaskResultStatus.FAILED, "errors": [*result.errors, told], "finished_at": run.now()}
    vars(result).update(changes)
    return result


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
