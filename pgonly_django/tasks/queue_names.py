"""The system check W003: limits of a queue that TASKS does not have protect nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.compat import InvalidTaskBackend, task_backends
from pgonly_django.conf import settings
from pgonly_django.tasks.backend import PostgresBackend


def check_names_of_queues(**_: object) -> list[checks.CheckMessage]:
    """W003: PGONLY["QUEUES"] has a name that no entry of TASKS allows. Where one allows every name, all are right."""
    try:
        limited = settings().queues
    except ImproperlyConfigured:  # E001 says so
        return []
    allowed = [backend.queues for backend in our_backends()]
    if not allowed or not all(allowed):
        return []
    known = sorted(set().union(*allowed))
    return [
        _unused(str(name), known)
        for name, entry in limited.items()
        if name not in known and not _is_of_dead_letters(entry)
    ]


def our_backends() -> Iterator[PostgresBackend]:
    """Those of TASKS, without entries of others and those that cannot be set up."""
    for alias in task_backends:
        try:
            backend = task_backends[alias]
        except InvalidTaskBackend:  # Django's own check says so
            continue
        if isinstance(backend, PostgresBackend):
            yield backend


def _is_of_dead_letters(entry: object) -> bool:
    """E010 says what is wrong with those."""
    return isinstance(entry, Mapping) and "task" in entry


def _unused(name: str, known: list[str]) -> checks.CheckMessage:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else 'Add the name to "QUEUES" of TASKS, or take it out here.'
    lack = f'which no "QUEUES" of TASKS has ({", ".join(known)}): no job can be in it.'
    return checks.Warning(f'PGONLY["QUEUES"] has {name!r}, {lack}', hint=hint, id="pgonly_django.W003")
