"""The search box of the job list: an id, a part of a task's name or of a unique key, something in the arguments or in
the metadata."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.utils.translation import gettext_lazy as _

from pgonly_django.models import Job
from pgonly_django.queue.values import to_json

HELP = _(
    "An id, a part of the task's name or of the unique key, text in the arguments or the metadata (such as the id of "
    "a trace), or name=value for one keyword argument or one entry of the metadata. "
    "A search that takes too long is narrowed to the newest rows, and this page says so."
)
TEXTS = ("args", "kwargs", "metadata")


def search_jobs(jobs: QuerySet[Job], term: str, *, in_data: bool) -> QuerySet[Job]:
    """The job with the id `term`, the jobs with that keyword argument or metadata, or those whose task, unique key,
    arguments or metadata contain it. Without `in_data` by id and task alone: by trying values, a search would tell an
    argument letter by letter."""
    term = term.strip()
    if (with_id := _with_id(jobs, term)) is not None and (not in_data or with_id.exists()):
        return with_id
    if not in_data:
        return jobs.filter(task__icontains=term)
    name, equals, value = term.partition("=")
    if equals and name.isidentifier():  # the value is JSON, or a string without its quotes
        typed, read = {name: value}, {name: _as_json(value)}
        in_call = Q(kwargs__contains=typed) | Q(kwargs__contains=read)
        return jobs.filter(in_call | Q(metadata__contains=typed) | Q(metadata__contains=read))
    condition = Q(task__icontains=term) | Q(unique_key__icontains=term)
    # As typed, and as it stands inside a JSON string (quotes, backslashes, line ends).
    for text in {term, json.dumps(term, ensure_ascii=False)[1:-1]}:
        for column in TEXTS:
            condition |= Q(**{f"{column}_text__icontains": text})
    texts = {f"{column}_text": Cast(column, TextField()) for column in TEXTS}
    return jobs.alias(**texts).filter(condition)


def _with_id(jobs: QuerySet[Job], term: str) -> QuerySet[Job] | None:
    """None for what is no id. What is one may also be the id of a trace, or stand in the arguments."""
    try:
        return jobs.filter(pk=UUID(term))
    except ValueError:
        return None


def _as_json(value: str) -> Any:
    """`value` read as JSON. What no job can hold (a NUL character, 1e400, thousands of levels) stays text."""
    try:
        read = json.loads(value, parse_constant=str)
        to_json(read, "The value")
    except (ValueError, RecursionError):
        return value
    return read
