"""The search above the job list."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast

from pgonly_django.models import Job
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.registry import known_tasks

SEARCHED = ("args", "kwargs", "metadata")


def search_jobs(jobs: QuerySet[Job], term: str, *, in_data: bool) -> QuerySet[Job]:
    """Returns the job with the id `term`, the jobs with that argument or metadata, or those whose task, unique key,
    arguments or metadata contain it. Without `in_data` it searches id and task alone: by trying values, a search would
    reveal an argument letter by letter."""
    term = term.strip()
    with suppress(ValueError):  # what is an id may also be that of a trace, or stand in the arguments
        with_id = jobs.filter(pk=UUID(term))
        if not in_data or with_id.exists():
            return with_id
    if not in_data:
        return jobs.filter(task__icontains=term)
    name, equals, value = term.partition("=")
    if equals and name.isidentifier():
        return jobs.filter(_has(name, value))
    condition = Q(task__icontains=term) | Q(unique_key__icontains=term)
    # As typed, and as it stands inside a JSON string (quotes, backslashes, line ends).
    for text in {term, json.dumps(term, ensure_ascii=False)[1:-1]}:
        for column in SEARCHED:
            condition |= Q(**{f"{column}_text__icontains": text})
    texts = {f"{column}_text": Cast(column, TextField()) for column in SEARCHED}
    return jobs.alias(**texts).filter(condition)


def _has(name: str, value: str) -> Q:
    """Whether a job has `value`, as JSON or as a string without its quotes, as its argument or its metadata `name`."""
    places, condition = _places(name), Q()
    for each in (value, _as_json(value)):
        condition |= Q(kwargs__contains={name: each}) | Q(metadata__contains={name: each})
        for place, paths in places.items():
            condition |= Q(**{f"args__{place}": each}, task__in=paths)
    return condition


def _places(name: str) -> dict[int, list[str]]:
    """Returns where the argument `name` stands in calls that pass it without its name, with the tasks that have it
    there."""
    paths: dict[int, list[str]] = defaultdict(list)
    for path, task in known_tasks().items():
        with suppress(ValueError):  # of a callable that has no signature
            places = call_signature(task.func, task.takes_context).places
            if name in places:
                paths[places[name]].append(path)
    return paths


def _as_json(value: str) -> Any:
    """Returns `value` read as JSON. What no job can hold (a NUL character, 1e400, thousands of levels) stays text."""
    try:
        read = json.loads(value, parse_constant=str)
        to_json(read, "The value")
    except (ValueError, RecursionError):
        return value
    return read
