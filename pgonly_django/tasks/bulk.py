"""enqueue_many(): many calls in one statement, for one TASKS backend or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from django.db import transaction

from pgonly_django.compat import Task
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.queue.enqueue import NewJob
from pgonly_django.tasks.backend import PostgresBackend
from pgonly_django.tasks.metadata import Call, metadata_text
from pgonly_django.tasks.result import JobResult

PAIR = 2
LISTS = (list, tuple)
NO_KWARGS: dict[str, Any] = {}
LENGTHS = range(2, 5)
DEFAULTS: list[Any] = [None, None, NO_KWARGS, None]
FORMS = "(task, args), (task, args, kwargs) or (task, args, kwargs, metadata)"


def enqueue_many(calls: Iterable[tuple[Any, ...]]) -> list[JobResult]:
    """Enqueues many calls with one COPY for each TASKS backend, in the caller's transaction: all of them or none.

        results = enqueue_many([
            (send_invoice, [42]),
            (send_invoice, [43], {"copy": True}),
            (send_invoice, [44], {}, {"tenant": "acme"}),
        ])

    Each call is a task and its args, then its kwargs and its metadata if it has any; or the result of `bind()`.
    Returns the results in the order of the calls. Raises what enqueue() raises, with the number of the call, and
    WrongArgumentsError for an entry of another form; then nothing is written."""
    # All are prepared before any is written: an error in the calls of the last backend leaves nothing written.
    jobs, backends = prepared(calls)
    results: list[Any] = [None] * len(jobs)
    with ExitStack() as transactions:
        if len(backends) > 1:
            for database in {backend.database for backend in backends}:
                transactions.enter_context(transaction.atomic(using=database))
        for backend, own in backends.items():
            for place, result in zip(own, backend.insert_many([jobs[place] for place in own]), strict=True):
                results[place] = result
    return results


def prepared(
    calls: Iterable[tuple[Any, ...]],
) -> tuple[list[tuple[Any, NewJob]], dict[PostgresBackend, list[int]]]:
    """Returns the tasks and jobs of the calls in their order, and the places of those of each backend. Writes nothing.
    Raises as enqueue_many()."""
    if not isinstance(calls, Iterable) or isinstance(calls, str | bytes | Mapping):
        raise WrongArgumentsError("enqueue_many()", f"it takes a list of {FORMS}, got {calls!r}")
    checked = [_call(place, entry) for place, entry in enumerate(calls)]
    places: dict[str, list[int]] = {}
    for place, (task, _, _, _) in enumerate(checked):
        places.setdefault(task.backend, []).append(place)
    # In the order of their aliases: two processes that write the keys of two backends in two orders would deadlock.
    backends = {_backend(checked[own[0]][0]): own for _, own in sorted(places.items())}
    jobs: list[Any] = [None] * len(checked)
    for backend, own in backends.items():
        for place, job in zip(own, backend.prepare_many([checked[place] for place in own]), strict=True):
            jobs[place] = job
    return jobs, backends


def _call(place: int, entry: Any) -> Call:
    """Returns the four parts of a call. Raises WrongArgumentsError for an entry of another form, such as a task alone
    or a text as the arguments."""
    if type(entry) is tuple and len(entry) == PAIR and type(entry[1]) in LISTS and isinstance(entry[0], Task):
        return entry[0], entry[1], NO_KWARGS, None  # nearly every call: checked at half the cost
    if not isinstance(entry, tuple | list) or len(entry) not in LENGTHS or not isinstance(entry[0], Task):
        raise WrongArgumentsError("enqueue_many()", f"call {place} must be {FORMS}, got {entry!r}")
    given: list[Any] = list(entry)
    task, args, kwargs, metadata = given + DEFAULTS[len(given) :]
    if not isinstance(args, tuple | list):
        raise WrongArgumentsError("enqueue_many()", f"the args of call {place} must be a list, got {args!r}")
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        reason = f"the kwargs of call {place} must be a dict, got {kwargs!r}"
        raise WrongArgumentsError("enqueue_many()", reason)
    text = metadata_text(metadata, f"enqueue_many(), call {place}")
    return task, args, kwargs, None if text is None else {"metadata": text}


def _backend(task: Any) -> PostgresBackend:
    backend = task.get_backend()
    if not isinstance(backend, PostgresBackend):
        kind = type(backend).__name__
        reason = f"TASKS[{task.backend!r}] is a {kind}, which has no such call; enqueue its tasks one by one"
        raise WrongArgumentsError("enqueue_many()", reason)
    return backend
