"""enqueue_many(): many calls at once, of one TASKS backend or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from django.db import transaction

from pgonly_django.compat import Task
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.tasks.backend import Call, PostgresBackend
from pgonly_django.tasks.result import JobResult

PAIR = 2
LISTS = (list, tuple)
NO_KWARGS: dict[str, Any] = {}
FORMS = "(task, args) or (task, args, kwargs)"


def enqueue_many(calls: Iterable[tuple[Any, ...]]) -> list[JobResult]:
    """Enqueue many calls: `enqueue_many([(task, args), (task, args, kwargs), ...])`; the results in order.

    One COPY per TASKS backend, inside the caller's transaction, all or none. Raises as enqueue() does, naming
    the argument, and WrongArgumentsError for an entry of another form; nothing is written then.
    """
    groups = _by_backend(calls)
    backends = [_backend(of_backend[0][0]) for _, of_backend in groups]
    # All are prepared before any is written: an error in the calls of the last backend leaves nothing behind.
    prepared = [
        backend.prepare_many(of_backend) for backend, (_, of_backend) in zip(backends, groups, strict=True)
    ]
    if len(backends) == 1:
        return backends[0].insert_many(prepared[0])
    results: list[Any] = [None] * sum(map(len, prepared))
    with ExitStack() as transactions:
        for database in {backend.database for backend in backends}:
            transactions.enter_context(transaction.atomic(using=database))
        for backend, jobs, (places, _) in zip(backends, prepared, groups, strict=True):
            for place, result in zip(places, backend.insert_many(jobs), strict=True):
                results[place] = result
    return results


def _by_backend(calls: Any) -> list[tuple[list[int], list[Call]]]:
    """The calls of each backend, and their places in the list."""
    groups: dict[str, tuple[list[int], list[Call]]] = {}
    for place, entry in enumerate(_each(calls)):
        call = _call(place, entry)
        places, of_backend = groups.get(call[0].backend) or groups.setdefault(call[0].backend, ([], []))
        places.append(place)
        of_backend.append(call)
    return list(groups.values())


def _each(calls: Any) -> Iterable[Any]:
    if isinstance(calls, Iterable) and not isinstance(calls, str | bytes | Mapping):
        return calls
    raise WrongArgumentsError("enqueue_many()", f"it takes a list of {FORMS}, got {calls!r}")


def _call(place: int, entry: Any) -> Call:
    """Raises WrongArgumentsError for an entry of another form: a task alone, or a text as the arguments."""
    if type(entry) is tuple and len(entry) == PAIR and type(entry[1]) in LISTS and isinstance(entry[0], Task):
        return entry[0], entry[1], NO_KWARGS  # nearly every call: checked at half the cost
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
