"""Django's TaskResult together with the job's row."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from numbers import Real
from types import GenericAlias, MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from asgiref.sync import sync_to_async

from pgonly_django.compat import GenericTaskResult, T, TaskError, TaskResult, TaskResultStatus
from pgonly_django.exceptions import WaitTimeoutError, WrongArgumentsError
from pgonly_django.outcomes import NOT_RUN
from pgonly_django.queue.carried import values_of
from pgonly_django.queue.enqueue import Moment, NewJob, moment_of

if TYPE_CHECKING:
    from pgonly_django.models import Job
    from pgonly_django.models.job import JobQuerySet
    from pgonly_django.queue.output import Output

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 1.0

READY = TaskResultStatus.READY
STATUS = {
    "scheduled": TaskResultStatus.READY,
    "ready": TaskResultStatus.READY,
    "running": TaskResultStatus.RUNNING,
    "held": TaskResultStatus.READY,
    "succeeded": TaskResultStatus.SUCCESSFUL,
    "failed": TaskResultStatus.FAILED,
    "cancelled": TaskResultStatus.FAILED,
}


class JobResult(GenericTaskResult[T]):
    """The result that enqueue() and get_result() return. `refresh()` reloads it; `job` reads the row."""

    _attempts: int = 0
    _is_duplicate: bool = False
    _carried: Mapping[str, Any]

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(GenericAlias)

    @property
    def is_duplicate(self) -> bool:
        """Whether the call that returned this made no new job, because another job had its unique key. This is the
        result of that job."""
        return self._is_duplicate

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The dict that `.using(metadata=...)` gave the job, with the headers of traces. Read-only, and never None."""
        return MappingProxyType(self._carried.get("metadata") or {})

    @property
    def job(self) -> Job:
        """The job's row as it is now. Raises Job.DoesNotExist when it has been pruned."""
        return self._rows.get()

    @property
    def attempts(self) -> int:
        """The number of runs that count against max_attempts, with the present one, as in `context.attempt`; 0 before
        the first run and after retry(). Planned stops, snoozes and the deaths of workers do not count. `worker_ids` has
        the workers of the last 10 runs that failed or were ended, and of the present or successful one."""
        return self._attempts

    @property
    def progress(self) -> dict[str, Any] | None:
        """The job's last progress() as {"done", "total", "message"}; None before the first."""
        from pgonly_django.models.job import MEASURED_SINCE

        progress = self._rows.values_list("progress", flat=True).get()
        if not progress:
            return None
        return {name: value for name, value in progress.items() if name != MEASURED_SINCE}

    def output(self, after: int = 0) -> Output:
        """Returns what the job has emitted (context.emit) after the offset `after`, which is the `offset` of an earlier
        answer, or 0 for all.

        `answer.text` is the new text, and `answer.applied_to(text)` is the whole, made of the text that you had: a job
        that was interrupted may take some of it back. It can be read while the job runs, and until it is pruned."""
        if isinstance(after, bool) or not isinstance(after, int) or not 0 <= after < 2**63:
            raise WrongArgumentsError(
                "output()", f"after must be the offset of an answer, or 0, got {after!r}"
            )
        from pgonly_django.queue.output import read_output

        return read_output(self._database, self.id, after)

    async def aoutput(self, after: int = 0) -> Output:
        """See output()."""
        return await sync_to_async(self.output)(after)

    def cancel(self) -> bool:
        """Cancels the job: at once when it waits, within seconds when it runs. Returns False if it has ended."""
        return bool(self._rows.cancel())

    def retry(self, *, forget: Collection[str] = ()) -> bool:
        """Makes a failed, cancelled, held or scheduled job ready now: it runs from its checkpoint, with all attempts,
        and makes the steps and waits that `forget` names once more. Returns False in other states, or when another job
        has its unique key. See Job.objects.retry()."""
        return bool(self._rows.retry(forget=forget))

    def hold(self, reason: str = "Held by a person.") -> bool:
        """Keeps a waiting job from running until resume(). Returns False when it runs or has ended."""
        return bool(self._rows.hold(reason))

    def resume(self) -> bool:
        """Lets a held job continue from its checkpoint. Returns False when it is not held."""
        return bool(self._rows.resume())

    def wait(self, timeout: float) -> Self:
        """Blocks until the job has finished, and returns this result, refreshed; the job may have failed. Raises
        WaitTimeoutError after `timeout` seconds; math.inf waits without limit. It reads the row at growing intervals of
        up to a second, so call it outside atomic() under REPEATABLE READ, and never for a job that was enqueued in an
        open transaction."""
        if isinstance(timeout, bool) or not isinstance(timeout, Real) or math.isnan(timeout):
            raise WrongArgumentsError("wait()", f"timeout must be a number of seconds, got {timeout!r}")
        deadline, pause = time.monotonic() + timeout, SHORTEST_PAUSE_SECONDS
        while True:
            self.refresh()
            if self.is_finished:
                return self
            left = deadline - time.monotonic()
            if left <= 0:
                raise WaitTimeoutError(self.id, timeout)
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in MADE_WHEN_READ} | vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def refresh(self) -> None:
        """Reloads everything from the row. Raises TaskResultDoesNotExist when it has been pruned."""
        fresh = self.task.get_backend().get_result(self.id)
        vars(self).update(vars(fresh) | {"task": self.task})

    async def arefresh(self) -> None:
        """See refresh()."""
        await sync_to_async(self.refresh)()

    @property
    def _rows(self) -> JobQuerySet:
        from pgonly_django.models import Job

        return Job.objects.using(self._database).filter(pk=self.id)

    @property
    def _database(self) -> str:
        database: str = self.task.get_backend().database  # type: ignore[attr-defined] # it is a PostgresBackend
        return database


# The fields are kept in the instance's dict, not in TaskResult's slots: set in one go instead of thirteen.
for _field in fields(TaskResult):
    setattr(JobResult, _field.name, None)

# Most results of enqueue() are never read, and the garbage collector walks over what they hold: without lists and dicts
# a result of enqueue_many() takes 1 instead of 5 us.
MADE_WHEN_READ: dict[str, Callable[[Any], Any]] = {
    "args": lambda result: json.loads(vars(result)["_json_args"]),
    "kwargs": lambda result: json.loads(vars(result)["_json_kwargs"]),
    "enqueued_at": lambda result: moment_of(vars(result)["_enqueued_at"]),
    "errors": lambda _: [],
    "_carried": lambda result: values_of(vars(result).get("_more")),
    "worker_ids": lambda _: [],
}
for _name, _make in MADE_WHEN_READ.items():
    _made = cached_property(_make)
    _made.__set_name__(JobResult, _name)
    setattr(JobResult, _name, _made)


def new_result(task: Any, job_id: str, enqueued_at: Moment, new: NewJob) -> JobResult:
    """Returns the result of a job that was just written."""
    values = {
        "task": task,
        "id": job_id,
        "status": READY,
        "backend": new.template.backend,
        "_json_args": new.args,
        "_json_kwargs": new.kwargs,
        "_enqueued_at": enqueued_at,
    }
    if new.more:
        values["_more"] = new.more
    result = object.__new__(JobResult)
    object.__setattr__(result, "__dict__", values)
    return result


def build_result(*, errors: Sequence[dict[str, Any]], worker_id: str | None, **values: Any) -> JobResult:
    """Makes a JobResult without the dataclass's own __init__, which would walk through all values once more. `errors`
    are those of the row, `worker_id` has the job or had it last; the others are fields, None where not given."""
    workers = values["worker_ids"] = [
        entry["worker_id"]
        for entry in errors
        if entry.get("worker_id") and entry.get("outcome") not in NOT_RUN
    ]
    if worker_id is not None:
        workers.append(worker_id)
    values["errors"] = [
        TaskError(exception_class_path=entry["exception"], traceback=entry.get("traceback", ""))
        for entry in errors
        if entry.get("exception")
    ]
    result = object.__new__(JobResult)
    object.__setattr__(result, "__dict__", values)
    return result


def as_duplicate(result: JobResult) -> JobResult:
    """Marks the result of a call that made no new job, and returns it."""
    vars(result)["_is_duplicate"] = True
    return result
