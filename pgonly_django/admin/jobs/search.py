"""The search box of the job list: an id, a part of a task's name or of a unique key, or something in the arguments."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.utils.translation import gettext_lazy as _

from pgonly_django.models import Job
from pgonly_django.queue.values import to_json

HELP = _(
    "An id, a part of the task's name or of the unique key, text in the arguments, or name=value for one keyword "
    "argument. "
    "A search that takes too long is narrowed to the newest rows, and this page says so."
)


def search_jobs(jobs: QuerySet[Job], term: str, *, in_data: bool) -> QuerySet[Job]:
    """The job with the id `term`, the jobs with that keyword argument, or those whose task, unique key or arguments
    contain it. Without `in_data` by id and task alone: by trying values, a search would tell an argument letter by
    letter."""
    term = term.strip()
    with suppress(ValueError):
        return jobs.filter(pk=UUID(term))
    if not in_data:
        return jobs.filter(task__icontains=term)
    name, equals, value = term.partition("=")
    if equals and name.isidentifier():  # the value is JSON, or a string without its quotes
        return jobs.filter(Q(kwargs__contains={name: value}) | Q(kwargs__contains={name: _as_json(value)}))
    condition = Q(task__icontains=term) | Q(unique_key__icontains=term)
    # As typed, and as it stands inside a JSON string (quotes, backslashes, line ends).
    for text in {term, json.dumps(term, ensure_ascii=False)[1:-1]}:
        condition |= Q(args_text__icontains=text) | Q(kwargs_text__icontains=text)
    texts = {"args_text": Cast("args", TextField()), "kwargs_text": Cast("kwargs", TextField())}
    return jobs.alias(**texts).filter(condition)


def _as_json(value: str) -> Any:
    """`value` read as JSON. What no job can hold (a NUL character, 1e400, thousands of levels) stays text."""
    try:
        read = json.loads(value, parse_constant=str)
        to_json(read, "The value")
    except (ValueError, RecursionError):
        return value
    return read
