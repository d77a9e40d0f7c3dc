"""redrive(): runs failed jobs again, at a chosen rate and with other arguments if you give some."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet

from pgonly_django.database import notify
from pgonly_django.database.on_django import repeat_after_conflict, require_autocommit
from pgonly_django.exceptions import PgonlyError, WrongArgumentsError
from pgonly_django.models import Job, State
from pgonly_django.models.batch import lock, reopen
from pgonly_django.models.job import COMES_BACK, JobQuerySet, key_is_free
from pgonly_django.queue.enqueue import KEY_COLUMNS, aware
from pgonly_django.queue.failed_jobs import Again, redrive_batch
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.arguments import CallSignature, call_signature
from pgonly_django.tasks.editing import keys_that_follow
from pgonly_django.tasks.registry import find_task

BATCH = 1000
KEPT_NAMED = 100
Failed = tuple[UUID, Any, UUID | None]  # id, when it failed, and its batch
# What new arguments are made of, and what depends on them.
REDRIVEN_COLUMNS = ("task", "backend", "queue", "priority", "args", "kwargs", "enqueued_at", *KEY_COLUMNS)
TAKEN = "Another job has its unique_key by now."


@dataclass
class Redriven:
    """What redrive() did: `jobs` is the number of jobs that run again, `left` the number that were left alone, and
    `reasons` says why, by the ids of the first 100 of these."""

    jobs: int = 0
    left: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def leave(self, job_id: str, reason: str) -> None:
        self.left += 1
        if len(self.reasons) < KEPT_NAMED:
            self.reasons[job_id] = reason


def redrive(
    jobs: JobQuerySet, *, per_minute: float | None = None, arguments: Mapping[str, Any] | None = None
) -> Redriven:
    """Runs the failed ones among `jobs` again, with all their attempts, from their steps and checkpoints.

        redrive(Job.objects.filter(task="shop.tasks.send_invoice"), per_minute=60)

    `per_minute`: the number of jobs that start in a minute, evenly spread; by default all start now. `arguments`: new
    values of parameters, by name, which have to fit each task. Each 1,000 jobs are one transaction, so that 100,000
    hold no locks for long; inside atomic() all are one. Jobs of earlier transactions stay redriven when a later one
    fails. A job is left alone when another job has its unique_key by now.

    Returns the counts. Raises WrongArgumentsError for arguments that do not fit one of the tasks, before anything is
    written.
    """
    rate = _checked_rate(per_minute)
    jobs._for_write = True  # noqa: SLF001 - as Django's own writing methods do: `db` is the router's for writing then
    alias = jobs.db
    require_autocommit(alias, "redrive()")
    failed = _unsliced(jobs, alias).filter(state=State.FAILED)
    if arguments:
        _check_arguments(failed, arguments)
    done = Redriven()
    last: Any = None
    while True:
        page = list(redrive_page(failed, last))
        again = partial(_redrive_page, failed, page, arguments, rate, done.jobs)
        redriven, left = repeat_after_conflict(alias, again)
        done.jobs += redriven
        for job_id, reason in left:
            done.leave(job_id, reason)
        if len(page) < BATCH:
            return done
        last = page[-1]


def redrive_page(failed: JobQuerySet, last: Failed | None) -> QuerySet[Job, Failed]:
    """Returns the next rows after `last`: those that failed first. Index: pgonly_job_failed, where nothing else is
    filtered."""
    if last is not None:
        job_id, failed_at, _ = last
        later = (
            Q(finished_at__gte=failed_at) if failed_at else Q(finished_at=None)
        )  # rows of other code come last
        failed = failed.filter(later).exclude(finished_at=failed_at, pk__lte=job_id)
    return failed.order_by("finished_at", "pk").values_list("pk", "finished_at", "batch_id")[:BATCH]


def redrive_rows(failed: JobQuerySet, ids: Sequence[Any], more: Sequence[str] = ()) -> JobQuerySet:
    """Returns these rows, locked. Index: the primary key."""
    is_free, comes_back = (
        ExpressionWrapper(q, output_field=BooleanField()) for q in (key_is_free(), COMES_BACK)
    )
    rows = (
        failed.filter(pk__in=ids)
        .order_by("pk")
        .annotate(has_free_key=is_free, takes_key=comes_back)
        .only("pk", "unique_key", "batch_id", *more)
    )
    return rows.select_for_update(skip_locked=True, no_key=True, of=("self",))


def _redrive_page(
    failed: JobQuerySet,
    page: Sequence[Failed],
    arguments: Mapping[str, Any] | None,
    rate: float,
    before: int,
) -> tuple[int, list[tuple[str, str]]]:
    """Redrives a page in one transaction, which may be repeated; `before` is the number of jobs before it. Returns
    (number of jobs that run again, the others with the reason)."""
    with transaction.atomic(using=failed.db):
        lock(failed.db, {batch_id for *_, batch_id in page if batch_id})
        rows = list(redrive_rows(failed, [pk for pk, *_ in page], REDRIVEN_COLUMNS if arguments else ()))
        return _redrive_rows(failed.db, rows, arguments, rate, before)


def _redrive_rows(
    alias: str, rows: Sequence[Any], arguments: Mapping[str, Any] | None, rate: float, before: int
) -> tuple[int, list[tuple[str, str]]]:
    batch: list[Again] = []
    left: list[tuple[str, str]] = []
    newest = {row.unique_key: row.pk for row in rows if row.takes_key}
    for row in rows:
        # Without new arguments it keeps its key, which another job may have, or gets in this batch.
        if not arguments and row.takes_key and not (row.has_free_key and newest[row.unique_key] == row.pk):
            left.append((str(row.pk), TAKEN))
            continue
        try:
            call = _changed(row, arguments) if arguments else None
        except PgonlyError as error:
            left.append((str(row.pk), str(error)))
        else:
            batch.append(Again(str(row.pk), (before + len(batch)) * rate, call))
    redriven = set(redrive_batch(alias, batch)) if batch else set()
    reopen(alias, {row.batch_id for row in rows if row.batch_id and str(row.pk) in redriven})
    left += [(each.id, TAKEN) for each in batch if each.id not in redriven]
    if redriven:
        notify.wake_after_commit(alias, notify.ready(notify.ANY_QUEUE))
        notify.wake_after_commit(alias, notify.DUE)
    return len(redriven), left


def _changed(row: Job, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the columns of a call with the new arguments, as JSON. Raises PgonlyError where the row's do not fit."""
    task = find_task(row.task, row.backend, row.queue, row.priority)
    args, kwargs = call_signature(task.func, task.takes_context).replaced(row.args, row.kwargs, arguments)
    calls = [(task, row.args, row.kwargs, None), (task, args, kwargs, None)]
    (_, old), (_, new) = task.get_backend().prepare_many(calls)
    keys = {name: getattr(row, name) for name in KEY_COLUMNS} | keys_that_follow(row, old, new)[0]
    until = keys["unique_until"]
    keys["unique_until"] = None if until is None else aware(until).isoformat()
    return {"args": json.loads(new.args), "kwargs": json.loads(new.kwargs), **keys}


def _check_arguments(failed: JobQuerySet, arguments: Mapping[str, Any]) -> None:
    """Raises UnknownTaskError, WrongArgumentsError or NotStorableError."""
    for column in failed.order_by().values_list("task", "backend", "queue", "priority").distinct():
        task = find_task(*column)
        signature = call_signature(task.func, task.takes_context)
        for name, value in arguments.items():
            _check_argument(signature, name, value)


def _check_argument(signature: CallSignature, name: str, value: Any) -> None:
    if not signature.takes(name):
        near = difflib.get_close_matches(name, signature.names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(signature.names) or 'none'}"
        raise WrongArgumentsError(
            f"{signature.name}{signature.signature}", f"it has no argument {name!r}; {hint}"
        )
    to_json([value], f"Argument {name!r} of {signature.name}()")


def _checked_rate(per_minute: float | None) -> float:
    """Returns the seconds between two jobs."""
    if per_minute is None:
        return 0.0
    is_number = isinstance(per_minute, Real) and not isinstance(per_minute, bool)
    if not is_number or not math.isfinite(per_minute) or per_minute <= 0:
        raise WrongArgumentsError("redrive()", f"per_minute must be a number above 0, got {per_minute!r}")
    return 60.0 / per_minute


def _unsliced(jobs: JobQuerySet, alias: str) -> JobQuerySet:
    """Returns a queryset that takes filters and locks: a slice takes no filter, DISTINCT and joins take no lock."""
    if jobs.query.is_sliced:
        return Job.objects.using(alias).filter(pk__in=list(jobs.values_list("pk", flat=True)))
    if jobs.query.distinct or jobs.query.combinator:
        return Job.objects.using(alias).filter(pk__in=jobs.order_by().values("pk"))
    return jobs.using(alias).defer(None)
