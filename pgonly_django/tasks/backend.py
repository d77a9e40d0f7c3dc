"""The TASKS backend: `TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend"}}`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from inspect import iscoroutinefunction
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from django.apps import apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router, transaction
from django.dispatch import Signal

from pgonly_django.compat import (
    BaseTaskBackend,
    InvalidTask,
    InvalidTaskBackend,
    TaskResultDoesNotExist,
    task_backends,
    task_enqueued,
    tasks_logger,
)
from pgonly_django.database import notify
from pgonly_django.database.on_django import (
    FollowUp,
    repeat_after_conflict,
    require_autocommit,
    require_autocommit_on,
)
from pgonly_django.events import emit, has_listeners
from pgonly_django.instruments import watches_enqueues
from pgonly_django.queue.enqueue import (
    NewJob,
    Template,
    aware,
    insert,
    insert_many,
    moment_of,
    payloads_of,
    templates_of,
)
from pgonly_django.queue.unique import Enqueued, insert_unique
from pgonly_django.tasks.arguments import CallSignature, call_signature, texts_of
from pgonly_django.tasks.bound import carried_by
from pgonly_django.tasks.failures import check_dead_letter_queue
from pgonly_django.tasks.keys import Columns, UniqueFunction, call_columns, kept_for_its_key, uniqueness
from pgonly_django.tasks.metadata import Call, instrumented
from pgonly_django.tasks.options import (
    OF_TEMPLATE,
    TaskOptions,
    storable,
    stored_retention,
    validate_fields,
    validate_place,
)
from pgonly_django.tasks.registry import first_path
from pgonly_django.tasks.result import JobResult, as_duplicate, new_result
from pgonly_django.tasks.settings import TasksEntry, check_tasks_entry
from pgonly_django.tasks.stored_jobs import result_of
from pgonly_django.tasks.task import PostgresTask

PREPARED_AT_MOST = 1024
# Calls whose arguments are encoded at a time.
ENCODED_TOGETHER = 1000
# Django connects one receiver to each signal. It writes a log line.
OWN_RECEIVERS = 1

_logger = logging.getLogger("pgonly_django.queue")
_decode = json.JSONDecoder().decode


class Prepared(NamedTuple):
    """The parts that all calls of a task share. The last three are None for most tasks."""

    task: Any
    signature: CallSignature
    template: Template
    columns: Columns | None
    unique: UniqueFunction | None
    carried: Mapping[str, Any] | None


class PostgresBackend(BaseTaskBackend):
    """The backend of TASKS that keeps jobs as rows of the project's own PostgreSQL. `QUEUES`: the allowed queue names
    (an empty list: any). `OPTIONS`: defaults for all tasks by the names of the decorator, "queues": {name: defaults},
    "database": the alias (by default the router decides)."""

    task_class = PostgresTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        self.entry = TasksEntry(alias, params)
        super().__init__(alias, {**params, "QUEUES": self.entry.queues, "OPTIONS": self.entry.options})
        if apps.apps_ready and not apps.is_installed("pgonly_django"):
            raise ImproperlyConfigured('The queue needs "pgonly_django" in INSTALLED_APPS; then run migrate.')
        # Validated tasks by their id(), with what their calls have in common.
        self._prepared: dict[int, Prepared] = {}

    @property
    def database(self) -> str:
        """The alias in DATABASES that holds the jobs."""
        return self.entry.database

    def validate_task(self, task: Any) -> None:
        """Raises InvalidTask for a task that breaks Django's rules or does not fit its columns, and for an async task
        that is atomic: a transaction belongs to one thread. A wrong entry in TASKS raises in enqueue(), not here: the
        checks, which report it, import the tasks."""
        validate_fields(task)
        if self.queues and task.queue_name not in self.queues:
            raise InvalidTask(self.entry.unknown_queue(task.queue_name))
        super().validate_task(task)
        if iscoroutinefunction(task.func) and self.options_of(task).atomic:
            name = task.func.__qualname__
            raise InvalidTask(f"{name} is async, so it cannot be atomic. Make it a sync task.")

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> JobResult:
        """Enqueues with one INSERT in the caller's transaction, which commits or rolls back with the rest. Before
        anything is written it raises WrongArgumentsError or NotStorableError, which name the argument,
        ManualCommitError with autocommit off, ImproperlyConfigured where the entry in TASKS is wrong, and what a
        callable among the options raises. The result of a unique job may be that of another one: `is_duplicate`."""
        new = self._new_job(task, args, kwargs)
        connection = connections[self.database]
        require_autocommit_on(connection, "enqueue()")
        return self._insert(connection, task, new)

    def insert(self, task: Any, new: NewJob) -> JobResult:
        """See enqueue(); the job is one of prepare_many()."""
        return self._insert(connections[self.database], task, new)

    def _insert(self, connection: Any, task: Any, new: NewJob) -> JobResult:
        if watches_enqueues():
            result: JobResult
            write = partial(self._write, connection)
            (result,) = instrumented([(task, new)], lambda jobs: [write(*jobs[0])], is_bulk=False)
            return result
        return self._write(connection, task, new)

    def _write(self, connection: Any, task: Any, new: NewJob) -> JobResult:
        if new.unique is not None:
            return self._insert_unique([(task, new)])[0]
        if new.template.run_at is not None:
            job_id, moment = insert(connection, new)
            result = new_result(task, job_id, moment, new)
            self._tell_after_commit(connection, new.payloads(moment_of(moment)), (result,))
            return result
        payload, in_transaction = new.ready, connection.in_atomic_block
        follow_up = None if in_transaction else notify.follow_up(connection.alias, payload)
        result = new_result(task, *insert(connection, new, follow_up), new)
        if in_transaction or _is_heard():
            self._tell_after_commit(connection, (payload,), (result,), follow_up)
        else:
            notify.send_coalesced(connection.alias, payload, follow_up)
        return result

    def prepare_many(self, calls: Iterable[Call]) -> list[tuple[Any, NewJob]]:
        """Returns each call's task and job, for insert_many(). Raises as enqueue() does, and writes nothing."""
        calls = iter(calls)
        jobs: list[tuple[Any, NewJob]] = []
        while some := list(islice(calls, ENCODED_TOGETHER)):
            texts = texts_of([call[1] for call in some], [call[2] for call in some])
            jobs += [(call[0], self._new_job(*call, each)) for call, each in zip(some, texts, strict=True)]
        require_autocommit(self.database, "enqueue_many()")
        return jobs

    def insert_many(
        self, jobs: Sequence[tuple[Any, NewJob]], alike: Mapping[str, str] | None = None
    ) -> list[JobResult]:
        """Writes all in one COPY in the caller's transaction, all or none, after the unique ones in separate
        statements. Returns the results in the same order. `alike`: columns that all have alike; no job is unique then.
        """
        if jobs and watches_enqueues():
            return instrumented(jobs, lambda some: self._insert_many(some, alike), is_bulk=True)
        return self._insert_many(jobs, alike)

    def _insert_many(
        self, jobs: Sequence[tuple[Any, NewJob]], alike: Mapping[str, str] | None
    ) -> list[JobResult]:
        if alike or not any(new.unique for _, new in jobs):
            return self._copy(jobs, alike)

        def write_all() -> list[JobResult]:
            results: dict[int, JobResult] = {}
            with transaction.atomic(using=self.database):
                for write, are_unique in ((self._insert_unique, True), (self._copy, False)):
                    places = [
                        at for at, (_, new) in enumerate(jobs) if (new.unique is not None) is are_unique
                    ]
                    results |= zip(places, write([jobs[at] for at in places]) if places else (), strict=True)
            return [results[at] for at in range(len(jobs))]

        # A retry, say, takes the same keys in another order.
        return repeat_after_conflict(self.database, write_all)

    def _copy(
        self, jobs: Sequence[tuple[Any, NewJob]], alike: Mapping[str, str] | None = None
    ) -> list[JobResult]:
        """See insert_many(); none of them is unique."""
        database, new_jobs = self.database, [new for _, new in jobs]
        templates = templates_of(new_jobs)

        def results_of(ids: Sequence[str], enqueued_at: datetime) -> list[JobResult]:
            pairs = zip(jobs, ids, strict=True)
            return [new_result(task, job_id, enqueued_at, new) for (task, new), job_id in pairs]

        results, enqueued_at = insert_many(database, new_jobs, templates, results_of, alike)
        payloads = payloads_of(new_jobs, templates, enqueued_at)
        self._tell_after_commit(connections[database], payloads, results)
        return results

    def _insert_unique(self, jobs: Sequence[tuple[Any, NewJob]]) -> list[JobResult]:
        """See insert_many(). A job that is there already is not announced again, but its time may be new."""
        written = insert_unique(self.database, [new for _, new in jobs])
        results = [_result_of(task, each) for (task, _), each in zip(jobs, written, strict=True)]
        new = [result for result in results if not result.is_duplicate]
        payloads = {payload for each in written for payload in each.payloads}
        self._tell_after_commit(connections[self.database], payloads, new)
        return results

    def get_result(self, result_id: str) -> JobResult:
        """Returns the result of the job. Raises TaskResultDoesNotExist when this backend has no job of this id (any
        more). If the code of the task is gone, the result's task is a stand-in that raises when it is called."""
        from pgonly_django.models import Job

        try:
            job = Job.objects.using(self.database).get(pk=UUID(str(result_id)), backend=self.alias)
        except (ValueError, Job.DoesNotExist) as error:
            raise TaskResultDoesNotExist(result_id) from error
        return result_of(job)

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:  # noqa: ARG002 - the signature of a check
        return check_tasks_entry(self.entry)

    def options_of(self, task: Any, overrides: Mapping[str, Any] | None = None) -> TaskOptions:
        """Returns the options of a call of `task`, with those of .using() or with `overrides`. A plain Task (of
        Django's own decorator) has the defaults."""
        chosen = _overrides(task) if overrides is None else overrides
        return self.entry.resolve(task.queue_name, getattr(task, "declared", {}), chosen)

    def _new_job(
        self,
        task: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        carried: Mapping[str, Any] | None = None,
        texts: tuple[str, str] | None = None,
    ) -> NewJob:
        """Returns the job of a call. Raises as enqueue() does. What is checked of a task is kept: it takes longer than
        the rest of a call. `texts`: the arguments as JSON, where many calls were encoded together."""
        prepared = self._prepared.get(id(task))
        if prepared is None:
            if len(self._prepared) >= PREPARED_AT_MOST:
                self._prepared.clear()
            # It holds the task, so no other object gets the same id.
            prepared = self._prepared[id(task)] = self._prepare(task)
        _, signature, template, columns, unique, usual = prepared
        signature.check(args, kwargs)
        texts = texts or signature.to_json(args, kwargs)
        carried = {**(usual or {}), **carried} if carried else usual
        if columns is None and unique is None:
            return NewJob(template, *texts, carried)
        # Each decodes for itself: a callable may change what it gets.
        more = {**columns(*map(_decode, texts)), **(carried or {})} if columns else carried
        return NewJob(template, *texts, more, unique(*map(_decode, texts)) if unique else None)

    def _prepare(self, task: Any) -> Prepared:
        if self.entry.problems:
            raise ImproperlyConfigured(" ".join(self.entry.problems))
        self.validate_task(task)
        validate_place(task)
        options = self.options_of(task)
        check_dead_letter_queue(options.dead_letter_queue)
        overrides = storable(_overrides(task))
        columns_of_options = {name: getattr(options, name) for name in OF_TEMPLATE} | {
            "retention": kept_for_its_key(options.retention, options),
            "failed_retention": stored_retention(kept_for_its_key(options.failed_retention, options)),
        }
        template = Template(
            backend=self.alias,
            queue=str.__str__(task.queue_name),  # of an Enum that is a str: its value
            task=task.module_path,
            priority=int(task.priority),
            options=None if overrides is None else json.dumps(overrides),
            # In UTC: the two times of an hour that comes twice are equal in their zone, and so would the templates be.
            run_at=None if task.run_after is None else aware(task.run_after).astimezone(UTC),
            **columns_of_options,
        )
        signature = call_signature(task.func, task.takes_context)
        unique = uniqueness(first_path(task), signature, options)
        columns, carried = call_columns(signature, options), carried_by(task, self.database)
        return Prepared(task, signature, template, columns, unique, carried)

    def _tell_after_commit(
        self,
        connection: Any,
        payloads: Iterable[str],
        results: Iterable[Any],
        follow_up: FollowUp | None = None,
    ) -> None:
        """Tells the workers and the receivers of task_enqueued."""

        def tell() -> None:
            for payload in payloads:
                notify.send_coalesced(connection.alias, payload, follow_up)
            # Where Django's own logger is at DEBUG, its line is enough.
            is_logged = _logger.isEnabledFor(logging.DEBUG) and not tasks_logger.isEnabledFor(logging.DEBUG)
            if is_logged or has_listeners():
                for result in results:
                    _log_enqueued(result)
            if has_receivers(task_enqueued, logging.DEBUG):
                for result in results:
                    task_enqueued.send(type(self), task_result=result)

        connection.on_commit(tell, robust=True)


def _is_heard() -> bool:
    """Returns whether the log, a listener or a receiver is told of new jobs."""
    is_logged = _logger.isEnabledFor(logging.DEBUG)
    return is_logged or has_listeners() or has_receivers(task_enqueued, logging.DEBUG)


def _result_of(task: Any, written: Enqueued) -> JobResult:
    if written.winner is not None:
        return as_duplicate(result_of(written.winner))
    assert written.job is not None
    result = new_result(task, written.id, written.enqueued_at, written.job)
    return as_duplicate(result) if written.is_duplicate else result


def has_receivers(signal: Signal, level: int) -> bool:
    """Returns whether the project has connected a receiver, or Django's own would log at `level`. For a short job,
    sending a signal costs more than its run."""
    return len(signal.receivers) > OWN_RECEIVERS or tasks_logger.isEnabledFor(level)


def _log_enqueued(result: Any) -> None:
    task = result.task
    due = f", due {task.run_after:%Y-%m-%d %H:%M:%S %Z}".rstrip() if task.run_after else ""
    message = f"{task.module_path} {result.id}: enqueued to {task.queue_name}{due}."
    facts = {"job_id": result.id, "task": task.module_path, "queue": task.queue_name}
    emit("queue.enqueued", message, level=logging.DEBUG, **facts)


def _overrides(task: Any) -> dict[str, Any]:
    return dict(getattr(task, "overrides", ()))


def our_backends() -> Iterator[PostgresBackend]:
    """Yields the backends of TASKS that are ours, without those that cannot be set up."""
    for alias in task_backends:
        try:
            backend = task_backends[alias]
        except InvalidTaskBackend:  # Django's own check says so
            continue
        if isinstance(backend, PostgresBackend):
            yield backend


def job_databases() -> list[str]:
    """Returns the aliases of the databases that have the jobs of TASKS, in its order. Where no entry is ours, it is
    where the router reads jobs, as commands and the admin do."""
    from pgonly_django.models import Job

    found = [backend.database for backend in our_backends()]
    return list(dict.fromkeys(found)) or [router.db_for_read(Job)]
