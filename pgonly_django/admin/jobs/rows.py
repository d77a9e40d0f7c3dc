"""What the list shows of the jobs of one page beside their columns: read for these rows alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import router
from django.db.models import Case, F, Func, IntegerField, JSONField, TextField, When
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Cast, Left, Length
from django.db.models.lookups import LessThanOrEqual
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _

from pgonly_django.admin.formats import short_name
from pgonly_django.admin.jobs.timeline import is_our_text
from pgonly_django.database.statement import printable
from pgonly_django.masking import MASK
from pgonly_django.models import Job, State, Worker
from pgonly_django.tasks.masking import JobMask
from pgonly_django.tasks.metadata import TRACE_HEADERS

# States in which a job's errors are history.
PAST_ERRORS = (State.SUCCEEDED, State.CANCELLED)
CAUSE_READ = 2_000
ARGUMENTS_READ = 4_000  # bytes of JSON; longer ones are named by their size alone
VALUE_SHOWN = 60
ENTRY = ("outcome", "exception", "message", "reason", "started_at", "finished_at")


class StoredSize(Func):
    """How many bytes a value takes up in its row, where a large one is compressed. PostgreSQL does not read it."""

    function = "pg_column_size"
    output_field = IntegerField()


def _unless_large(column: str) -> Case:
    """The value, or NULL. The length of its text is asked only where its stored size is small."""
    text = Length(Cast(column, TextField()))
    is_short = When(LessThanOrEqual(text, ARGUMENTS_READ), then=F(column))
    is_small = When(LessThanOrEqual(StoredSize(column), ARGUMENTS_READ), then=Case(is_short))
    return Case(is_small, output_field=JSONField())


# PostgreSQL computes these for the rows of one page: the list is not sorted.
LISTED = {
    **{
        f"last_{key}": Left(
            KeyTextTransform(key, KeyTransform(-1, "errors")), CAUSE_READ, output_field=TextField()
        )
        for key in ENTRY
    },
    "small_args": _unless_large("args"),
    "small_kwargs": _unless_large("kwargs"),
    "small_metadata": _unless_large("metadata"),
    "stored_size": StoredSize("args") + StoredSize("kwargs"),
}


@dataclass(frozen=True, slots=True)
class Row:
    address: str  # of the job's page
    cause: str  # why the last attempt ended; "" where that is history
    arguments: str
    worker: str  # the name
    sees_data: bool


def rows_of(jobs: Sequence[Any], addresses: Iterable[str], *, sees_data: bool) -> list[Row]:
    """Of `jobs` that were read with LISTED. Without `sees_data` no text that has values of the job in it."""
    mask = JobMask()
    names = _worker_names(jobs)
    return [
        Row(
            address=address,
            cause=_cause(job, sees_data=sees_data),
            arguments=_arguments(job, mask) if sees_data else "",
            worker=names.get(job.worker_id, "") if job.worker_id else "",
            sees_data=sees_data,
        )
        for job, address in zip(jobs, addresses, strict=True)
    ]


def _worker_names(jobs: Sequence[Job]) -> dict[Any, str]:
    ids = {job.worker_id for job in jobs if job.worker_id}
    workers = Worker.objects.using(router.db_for_read(Worker)).filter(pk__in=ids)
    return dict(workers.values_list("pk", "name")) if ids else {}


def _cause(job: Any, *, sees_data: bool) -> str:
    if job.state in PAST_ERRORS:
        return ""
    entry = {key: value for key in ENTRY if (value := getattr(job, f"last_{key}")) is not None}
    told = [entry.get("message") or entry.get("reason")] if sees_data else []
    if not sees_data and is_our_text(entry.get("outcome", "failed"), entry):
        told = [entry.get("reason")]
    return ": ".join(filter(None, (short_name(entry.get("exception", "")), *told)))


def _arguments(job: Any, mask: JobMask) -> str:
    """As they stand in a call, secrets masked, and the metadata behind them: 5, project_id=7 · tenant="acme"."""
    return " · ".join(filter(None, (_call(job, mask), _metadata(job.small_metadata, mask))))


def _metadata(metadata: Any, mask: JobMask) -> str:
    shown = mask.value(metadata) if isinstance(metadata, dict) else {}
    return ", ".join(
        f"{name}={_compact(value)}" for name, value in shown.items() if name not in TRACE_HEADERS
    )


def _call(job: Any, mask: JobMask) -> str:
    if job.small_args is None or job.small_kwargs is None:
        return _("too large for the list: %s") % filesizeformat(job.stored_size)
    args, kwargs = mask.args(job.task, job.small_args), mask.value(job.small_kwargs)
    positional = [_compact(value) for value in args] if isinstance(args, list) else [_compact(args)]
    if isinstance(kwargs, dict):
        named = [f"{name}={_compact(value)}" for name, value in kwargs.items()]
    else:
        named = [_compact(kwargs)]
    return ", ".join([*positional, *named])


def _compact(value: Any) -> str:
    """As JSON in one line, shortened."""
    try:
        text = printable(json.dumps(value, ensure_ascii=False)).replace(f'"{MASK}"', MASK)
    except (ValueError, RecursionError):
        return "…"
    return text if len(text) <= VALUE_SHOWN else f"{text[: VALUE_SHOWN - 1]}…"
