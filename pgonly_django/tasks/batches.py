"""Batch: jobs with a common end, after which other jobs are enqueued."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import transaction

from pgonly_django.compat import Task, uuid7
from pgonly_django.current_job import current_job
from pgonly_django.database import notify
from pgonly_django.database.statement import printable
from pgonly_django.exceptions import OptionError, WrongArgumentsError
from pgonly_django.queue.enqueue import OF_BATCH, Members, NewJob
from pgonly_django.tasks.backend import job_databases
from pgonly_django.tasks.bound import BoundCall, next_job, stored
from pgonly_django.tasks.bulk import prepared
from pgonly_django.tasks.result import JobResult

if TYPE_CHECKING:
    from pgonly_django.models import JobBatch
    from pgonly_django.models.job import JobQuerySet

PAGE = 1000
NAME_LENGTH = 255  # of JobBatch.name
Callback = Any  # a Task, what its bind() returns, or None


class Batch:
    """Jobs with a common end: when none of them is unfinished any more, workers enqueue its callbacks.

        with Batch(name="Screen 7", on_success=publish.bind(7), on_failure=look_into.bind(7)) as batch:
            batch.enqueue_many(screen.bind(pk) for pk in pks)

    The block is a transaction, so that the batch cannot end before all its jobs are there. A batch without jobs ends
    with the block. While one of its jobs is unfinished more can be enqueued: by any code, and by its jobs.

    A callback is a task, or its bind(). `on_success`: is enqueued when all jobs have succeeded;
    `on_failure`: when one of them has failed or was cancelled; `on_finish`: in both cases. A job that is retried opens
    the batch again; each callback is enqueued once in the life of the batch. `name`: what the admin calls the batch,
    255 characters at most. `using`: the database, an alias, where it does not follow from a callback.

    Raises what enqueue() raises for a callback, OptionError for one that is unique, and WrongArgumentsError.
    """

    _callbacks: str | None = None  # JSON; None: its row is there
    _name = ""
    _is_filled = _is_in_block = False

    def __init__(
        self, *, name: str = "", on_success: Callback = None, on_failure: Callback = None,
        on_finish: Callback = None, using: str | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(name, str) or len(name) > NAME_LENGTH or printable(name) != name:
            reason = f"name must be a text of at most {NAME_LENGTH} characters, got {name!r:.300}"
            raise WrongArgumentsError("Batch()", reason)
        self.id, self._name = str(uuid7()), name
        given = {"on_success": on_success, "on_failure": on_failure, "on_finish": on_finish}
        calls = {name: _call(name, each) for name, each in given.items() if each is not None}
        jobs, backends = prepared(calls.values())
        self.database = using or next((each.database for each in backends), job_databases()[0])
        _refuse(jobs, backends, self.database)
        callbacks = (f"{json.dumps(name)}: {stored(each, self.database)}" for name, each in calls.items())
        self._callbacks = f"{{{', '.join(callbacks)}}}"

    @classmethod
    def get(cls, batch_id: Any, *, using: str | None = None) -> Self:
        """Returns the batch with this id. Sends no statement: `row` says whether there is one. Raises ValueError for an
        id that is no UUID."""
        found = cls.__new__(cls)
        found.id, found.database = str(UUID(str(batch_id))), using or job_databases()[0]
        return found

    @classmethod
    def current(cls) -> Self | None:
        """Returns the batch of the job whose code runs here: which it is a member of, or whose callback it is. None
        where there is none."""
        run: Any = current_job.get()
        if run is None or not run.alias:
            return None
        batch_id = run.job.batch_id or _batch_of_callback(run.alias, run.job.id)
        return None if batch_id is None else cls.get(batch_id, using=run.alias)

    def __str__(self) -> str:
        return f"batch {self.id}"

    @property
    def row(self) -> JobBatch:
        """The row as it is now: `finished_at`, `cancelled_at`. Raises JobBatch.DoesNotExist."""
        from pgonly_django.models import JobBatch

        return JobBatch.objects.using(self.database).get(pk=self.id)

    @property
    def jobs(self) -> JobQuerySet:
        """Its jobs, in the order in which they were enqueued: `batch.jobs.failed().retry()`."""
        from pgonly_django.models import Job

        return Job.objects.using(self.database).filter(batch_id=self.id).order_by("pk")

    def results(self) -> Iterator[JobResult]:
        """Yields the results of its jobs, in the order in which they were enqueued; 1,000 rows are read at a time."""
        from pgonly_django.tasks.stored_jobs import result_of

        page = list(self.jobs[:PAGE])
        while page:
            yield from map(result_of, page)
            page = list(self.jobs.filter(pk__gt=page[-1].pk)[:PAGE]) if len(page) == PAGE else []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(transaction.atomic(using=self.database))
            self._open()
            self._block = stack.pop_all()
        self._is_in_block = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_in_block = False
        if not self._is_filled:
            notify.wake_after_commit(self.database, notify.batch(self.id))
        self._block.__exit__(kind, error, trace)

    def enqueue(self, task: Any, /, *args: Any, **kwargs: Any) -> JobResult:
        """Enqueues a call of `task` as a job of the batch. Raises as enqueue_many()."""
        return self.enqueue_many([(task, args, kwargs)])[0]

    async def aenqueue(self, task: Any, /, *args: Any, **kwargs: Any) -> JobResult:
        """See enqueue()."""
        return await sync_to_async(self.enqueue)(task, *args, **kwargs)

    def enqueue_many(self, calls: Iterable[tuple[Any, ...]]) -> list[JobResult]:
        """Enqueues many calls in one transaction, all or none, and returns their results in order. Without calls a
        batch that has no jobs yet ends. Raises as enqueue_many() of this package; OptionError for unique tasks, whose
        job another one may be; and BatchFinishedError when the batch has finished or was cancelled."""
        members = members_of(calls, self.database)
        with nullcontext() if self._is_in_block else transaction.atomic(using=self.database):
            self._open()
            if not members.size:
                notify.wake_after_commit(self.database, notify.batch(self.id))
            self._is_filled = self._is_filled or members.size > 0
            results: list[JobResult] = members.insert(self.id)
        return results

    async def aenqueue_many(self, calls: Iterable[tuple[Any, ...]]) -> list[JobResult]:
        """See enqueue_many()."""
        return await sync_to_async(self.enqueue_many)(calls)

    def cancel(self) -> int:
        """Cancels its unfinished jobs as `Job.objects.cancel()` does, and takes no more. Returns how many. The batch
        ends when the last running one has, with `on_failure` and `on_finish`."""
        from pgonly_django.queue import batches

        return batches.cancel(self.database, [self.id])

    async def acancel(self) -> int:
        """See cancel()."""
        return await sync_to_async(self.cancel)()

    def _open(self) -> None:
        """Keeps the batch open until the transaction ends. Its row may have been rolled back with an earlier one."""
        from pgonly_django.queue import batches

        has_row = self._callbacks is None or self._is_in_block
        if has_row or not batches.create(self.database, self.id, str(self._callbacks), self._name):
            batches.lock_to_add(self.database, self.id)


def members_of(calls: Iterable[tuple[Any, ...]], database: str) -> Members:
    """Returns the jobs of a batch in this database, which are not written. Raises as Batch.enqueue_many()."""
    jobs, backends = prepared(calls)
    _refuse(jobs, backends, database)
    return Members(len(jobs), partial(_insert, jobs, backends))


def _insert(jobs: Sequence[tuple[Any, NewJob]], backends: Iterable[Any], batch_id: str) -> list[JobResult]:
    alike = {"batch_id": batch_id}
    results: list[JobResult] = next(iter(backends)).insert_many(jobs, alike) if jobs else []
    return results


def _refuse(jobs: Iterable[tuple[Any, NewJob]], backends: Iterable[Any], database: str) -> None:
    """Raises for jobs of another database, and for unique ones."""
    for backend in backends:
        if backend.database != database:
            where = f"keeps its jobs in {backend.database!r}, and the batch is in {database!r}"
            raise WrongArgumentsError("A batch", f"TASKS[{backend.alias!r}] {where}")
    for task, new in jobs:
        if new.unique is not None:
            name = task.func.__qualname__
            reason = "so its call may make no new job, and a batch would not know its end"
            raise OptionError(f"{name} is unique, {reason}. Use {name}.using(unique=None) in a batch.")


def callback(batch_id: str, row: Mapping[str, Any]) -> NewJob:
    """Returns the job of a callback, which is stored as this row."""
    return next_job(row, None, of="a batch").enqueued_by(f"{OF_BATCH}{batch_id}")


def _call(name: str, given: Any) -> BoundCall:
    if isinstance(given, BoundCall):
        return given
    if isinstance(given, Task):
        return BoundCall(given, (), {})
    raise WrongArgumentsError("Batch()", f"{name} must be a task, or what its bind() returns, got {given!r}")


def _batch_of_callback(alias: str, job_id: str) -> str | None:
    from pgonly_django.models import Job

    origin = Job.objects.using(alias).filter(pk=job_id).values_list("enqueued_by", flat=True).first() or ""
    return origin.removeprefix(OF_BATCH) if origin.startswith(OF_BATCH) else None
