"""edit(): a person changes a job that waits. Its row is locked, and changes only while it is as the person saw it.
run_again(): a new job with the call of an existing one, unchanged or with other arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db import IntegrityError, OperationalError, transaction
from django.db.models import Case, DateTimeField, Value, When
from django.db.models.lookups import GreaterThan
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _

from pgonly_django.compat import InvalidTask
from pgonly_django.database import notify
from pgonly_django.database.on_django import require_autocommit
from pgonly_django.exceptions import PgonlyError
from pgonly_django.models import Job, State
from pgonly_django.models.job import READY_AGAIN, ClockTimestamp
from pgonly_django.models.job_rows import UNIQUE_ROW
from pgonly_django.queue.carried import RUNS_AGAIN, texts_of
from pgonly_django.queue.enqueue import (
    CALL_COLUMNS,
    KEY_COLUMNS,
    OF_COPY,
    UNIQUE_COLUMNS,
    NewJob,
    Template,
    aware,
)
from pgonly_django.tasks.failures import dead_letter_tasks
from pgonly_django.tasks.keys import kept_for_its_key
from pgonly_django.tasks.options import (
    OF_TEMPLATE,
    TaskOptions,
    failed_retention_of,
    restored,
    stored_retention,
)
from pgonly_django.tasks.registry import UnknownTaskError, backend_of, find_task
from pgonly_django.tasks.result import JobResult

EDITABLE = (State.SCHEDULED, State.READY, State.HELD)
FIELDS = ("queue", "priority", "run_at", "args", "kwargs")
EDITING_COLUMNS = (*FIELDS, "state", "lease_epoch", "task", "backend", "enqueued_at", *KEY_COLUMNS)
NOTES = {
    "concurrency_key": _("Its concurrency key was chosen for this job alone and stays."),
    "unique_key": _("Its unique key was chosen for this job alone and stays."),
}


class EditError(PgonlyError):
    """A job cannot be changed in this way, or not any more. Nothing was written."""


class UnfitCallError(EditError):
    """enqueue() would refuse the job, for this reason. The text may have values of its arguments in it."""


def version_of(job: Job) -> str:
    """Returns the version of the job as a person sees it. It changes when the job is changed or claimed. It is a keyed
    hash, which reveals nothing of the arguments."""
    run_at = None if job.run_at is None else aware(job.run_at).isoformat()
    seen = [job.state, job.lease_epoch, job.queue, job.priority, run_at, job.args, job.kwargs]
    return salted_hmac("pgonly_django.edit", json.dumps(seen), algorithm="sha256").hexdigest()


def edit(alias: str, job_id: Any, version: str, changes: Mapping[str, Any]) -> list[str]:
    """Changes the columns that `changes` has, some of FIELDS, of a job that waits and is as `version` says. Returns
    notes for the person. Raises EditError, in words, where that is not possible.

    Arguments have to fit the signature of the task. The unique key and the concurrency key follow them, unless they
    were chosen for this job alone. Workers are told after the commit. The job keeps the time since when it waits.
    """
    require_autocommit(alias, "edit()")
    with transaction.atomic(using=alias):
        job = (
            Job.objects.using(alias)
            .filter(pk=job_id)
            .select_for_update(no_key=True)
            .only(*EDITING_COLUMNS)
            .first()
        )
        if job is None:
            raise EditError(_("The job does not exist any more."))
        if job.state not in EDITABLE:
            raise EditError(_("The job does not wait any more: %s.") % job.get_state_display().lower())
        if version_of(job) != version:
            raise EditError(
                _("The job was changed since this page was made. Open the page again to edit it.")
            )
        notes, keys = _keys(job, changes)
        _write(alias, job, {**changes, **keys, **_state(job, changes)})
        _wake(alias, job.pk)
    return notes


def _state(job: Job, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the state for a new time, by the database's clock, which also promotes the job. A held job stays held."""
    if "run_at" not in changes or job.state == State.HELD:
        return {}
    now_ready = READY_AGAIN if job.state == State.SCHEDULED else {}
    moment = changes["run_at"]
    if moment is None:
        return now_ready
    is_ahead = GreaterThan(Value(aware(moment), output_field=DateTimeField()), ClockTimestamp())
    state = Case(When(is_ahead, then=Value(State.SCHEDULED.value)), default=Value(State.READY.value))
    return now_ready | {"state": state}


def _keys(job: Job, changes: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Returns notes for the person, and the columns that follow from the arguments and the queue's options."""
    if not set(changes) & {"queue", "args", "kwargs"}:
        return [], {}
    new = _prepared(job, changes)
    stored = {"args": json.loads(new.args), "kwargs": json.loads(new.kwargs)}
    columns: dict[str, Any] = {name: value for name, value in stored.items() if name in changes}
    try:
        old = _prepared(job, {})
    except EditError as error:
        if job.unique_key is None and job.concurrency_key is None:
            return [], {**columns, **_keys_of(job, new)}
        raise UnfitCallError(
            _("Its keys were made of its present arguments, which do not fit the task any more: %s") % error
        ) from error
    keys, stay = keys_that_follow(job, old, new)
    return [NOTES[name] for name in stay], columns | keys


def keys_that_follow(job: Job, old: NewJob, new: NewJob) -> tuple[dict[str, Any], list[str]]:
    """Returns the columns that change with the arguments, from the job of the `old` call to that of the `new` one; and
    the keys that were chosen for this job alone, by .using(), and stay."""
    columns: dict[str, Any] = {}
    stay = []
    was, now = _keys_of(job, old), _keys_of(job, new)
    for key, group in (("concurrency_key", CALL_COLUMNS), ("unique_key", UNIQUE_COLUMNS)):
        if getattr(job, key) == was[key]:
            columns |= {name: now[name] for name in group if getattr(job, name) == was[name]}
        else:
            stay.append(key)
    return columns, stay


def _prepared(job: Job, changes: Mapping[str, Any]) -> NewJob:
    """Returns the job as enqueue() would make it of its columns and the `changes`. Raises EditError."""
    values = {name: changes.get(name, getattr(job, name)) for name in ("queue", "priority", "args", "kwargs")}
    args, kwargs = values["args"], values["kwargs"]
    new: NewJob
    with _refusals_in_words(args, kwargs):
        task = find_task(job.task, job.backend, values["queue"], values["priority"])
        ((_task, new),) = backend_of(task).prepare_many([(task, args, kwargs, None)])
    return new


@contextmanager
def _refusals_in_words(args: Any, kwargs: Any) -> Iterator[None]:
    """Stands around code that calls enqueue() or a similar function. Raises UnfitCallError for what that refuses."""
    if not (isinstance(args, list) and isinstance(kwargs, dict)):
        raise UnfitCallError(_("The arguments must be a list and an object of names."))
    try:
        yield
    except (PgonlyError, UnknownTaskError, InvalidTask) as error:
        raise UnfitCallError(str(error)) from error
    except OperationalError:
        raise
    except Exception as error:
        raise UnfitCallError(f"{type(error).__name__}: {error}") from error


def _keys_of(job: Job, new: NewJob) -> dict[str, Any]:
    """Returns KEY_COLUMNS as the INSERT writes them."""
    columns = {name: (new.more or {}).get(name) for name in KEY_COLUMNS}
    if (unique := new.unique) is not None:
        until = None if unique.period is None else job.enqueued_at + unique.period
        columns |= {"unique_key": unique.key, "unique_while": unique.until, "unique_until": until}
    return columns


def _write(alias: str, job: Job, columns: Mapping[str, Any]) -> None:
    """Raises EditError where another job has the new unique key."""
    key = columns.get("unique_key")
    others = Job.objects.using(alias).filter(UNIQUE_ROW, unique_key=key).exclude(pk=job.pk)
    try:
        with transaction.atomic(using=alias):
            if key is not None:
                others.filter(unique_until__lt=ClockTimestamp()).update(unique_key=None)
            Job.objects.using(alias).filter(pk=job.pk).update(**columns)
    except IntegrityError as error:
        if key is None:
            raise
        winner = others.values_list("pk", flat=True).first()
        raise EditError(_("Another job has the unique key of these arguments: %s.") % winner) from error


def _wake(alias: str, job_id: Any) -> None:
    """Wakes the workers. Within a second of run_at the clock may pass it before the NOTIFY: a worker that hears of a
    due job looks at the clock."""
    state, queue, slots = (
        Job.objects.using(alias).filter(pk=job_id).values_list("state", "queue", "slots").get()
    )
    if state == State.SCHEDULED:
        notify.wake_after_commit(alias, notify.DUE)
    elif state == State.READY:
        notify.wake_after_commit(alias, (notify.ready if slots is None else notify.limited)(queue))


def run_again(
    job: Job, *, queue: str, priority: int, run_at: datetime | None, args: Any, kwargs: Any
) -> JobResult:
    """Enqueues the task of `job` once more; `run_at` None: now. The options of .using() that its row has are those of
    the new job, too: all except `unique` and its related options and `idempotency_key`; and so is what it carries, if
    that RUNS_AGAIN. Unique keys hold: the result may be that of another job (`is_duplicate`). Raises UnfitCallError, in
    words, for what enqueue() refuses."""
    result: JobResult
    with _refusals_in_words(args, kwargs):
        task = find_task(job.task, job.backend, queue, priority)
        backend = backend_of(task)
        call = task.using(run_after=None if run_at is None else aware(run_at))
        carried = texts_of({name: getattr(job, name) for name in RUNS_AGAIN})
        ((_task, new),) = backend.prepare_many([(call, args, kwargs, None)])
        template = _template_of(job, new, backend.options_of(task))
        new = new._replace(template=template, more={**_own_of(job, new), **carried})
        result = backend.insert(call, new.enqueued_by(f"{OF_COPY}{job.pk}"))
    return result


def _template_of(job: Job, new: NewJob, usual: TaskOptions) -> Template:
    """Returns the template with the options that have a column as the row of `job` has them. A unique key may need a
    longer retention. Raises ImportError for a backoff that does not exist any more."""
    restored(job.options)
    columns = {name: getattr(job, name) for name in OF_TEMPLATE} | {
        "options": json.dumps(job.options) if job.options else None,
        "retention": kept_for_its_key(job.retention, usual),
        "failed_retention": stored_retention(
            kept_for_its_key(failed_retention_of(job.failed_retention), usual)
        ),
    }
    letters = job.dead_letter_queue
    if letters is not None and letters not in dead_letter_tasks():
        columns["dead_letter_queue"] = new.template.dead_letter_queue
    return replace(new.template, **columns)


def _own_of(job: Job, new: NewJob) -> dict[str, Any]:
    """Returns the columns of the concurrency key: those that were chosen for `job` alone stay, the others follow the
    new call. Of arguments that do not fit any more nothing is known."""
    try:
        columns, _ = keys_that_follow(job, _prepared(job, {}), new)
        own = {name: columns.get(name, getattr(job, name)) for name in CALL_COLUMNS}
    except EditError:
        own = dict(new.more or {})
    return {name: value for name, value in own.items() if value is not None}
