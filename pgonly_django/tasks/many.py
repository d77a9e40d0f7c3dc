"""Many calls at once, of tasks of one backend or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from django.db import transaction

from pgonly_django.compat import Task
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.tasks.backend import Call, PostgresBackend
from pgonly_django.tasks.result import JobResult

FORMS = "(task, args) or (task, args, kwargs)"


def enqueue_many(calls: Iterable[tuple[Any, ...]]) -> list[JobResult]:
    """Enqueue many calls: `enqueue_many([(task, args), (task, args, kwargs), ...])`; the results in order.

    One COPY per TASKS backend, inside the caller's transaction, all or none. Raises as enqueue() does, naming
    the argument, and WrongArgumentsError for what is no such call; nothing is written then.
    """
    places: dict[str, list[int]] = {}
    by_backend: dict[str, list[Call]] = {}
    for place, entry in enumerate(_each(calls)):
        call = _call(place, entry)
        places.setdefault(call[0].backend, []).append(place)
        by_backend.setdefault(call[0].backend, []).append(call)
    backends = [_backend(group[0][0]) for group in by_backend.values()]
    # All of them first: an error in the last one's calls must find nothing of the first one's written.
    prepared = [
        backend.prepare_many(group) for backend, group in zip(backends, by_backend.values(), strict=True)
    ]
    results: list[Any] = [None] * sum(map(len, prepared))
    with ExitStack() as transactions:
        if len(backends) > 1:
            for database in {backend.database for backend in backends}:
                transactions.enter_context(transaction.atomic(using=database))
        for backend, jobs, its_places in zip(backends, prepared, places.values(), strict=True):
            for place, result in zip(its_places, backend.insert_many(jobs), strict=True):
                results[place] = result
    return results


def _each(calls: Any) -> Iterable[Any]:
    if isinstance(calls, Iterable) and not isinstance(calls, str | bytes | Mapping):
        return calls
    raise WrongArgumentsError("enqueue_many()", f"it takes a list of {FORMS}, got {calls!r}")


def _call(place: int, entry: Any) -> Call:
    """Raises WrongArgumentsError for what cannot be meant: a task alone, or a text where the arguments stand."""
    if not isinstance(entry, tuple | list) or len(entry) not in (2, 3) or not isinstance(entry[0], Task):
        raise WrongArgumentsError("enqueue_many()", f"call {place} must be {FORMS}, got {entry!r}")
    task, args, kwargs = entry if len(entry) == 3 else (*entry, {})  # noqa: PLR2004 - the second form
    if not isinstance(args, tuple | list):
        raise WrongArgumentsError("enqueue_many()", f"the args of call {place} must be a list, got {args!r}")
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise WrongArgumentsError(
            "enqueue_many()", f"the kwargs of call {place} must be a dict, got {kwargs!r}"
        )
    return task, args, kwargs


def _backend(task: Any) -> PostgresBackend:
    backend = task.get_backend()
    if not isinstance(backend, PostgresBackend):
        kind = type(backend).__name__
        reason = f"TASKS[{task.backend!r}] is a {kind}, which has no such call; enqueue its tasks one by one"
        raise WrongArgumentsError("enqueue_many()", reason)
    return backend
