"""Names of queues in tests: a check of a queue that does not exist would hold for ever."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from pgonly_django.conf import settings
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.models import Job
from pgonly_django.tasks.backend import PostgresBackend

SIMILARITY = 0.75  # "mial" and "mail"


def check_queue(call: str, name: str, backends: Sequence[PostgresBackend], databases: Sequence[str]) -> None:
    """Raises WrongArgumentsError for a name that no job can have. Where a backend allows every name (`QUEUES` is []),
    only for one that looks like a misspelt other name and has no jobs."""
    known = {queue for backend in backends for queue in backend.queues}
    in_rows = {queue for alias in databases for queue in _queues_of_jobs(alias)}
    if name in known | in_rows | set(settings().queues):
        return
    if all(backend.queues for backend in backends):
        meant = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {meant[0]!r}?" if meant else ""
        names = ", ".join(map(repr, sorted(known)))
        raise WrongArgumentsError(call, f"no job can be in queue {name!r}: TASKS has {names}.{hint}")
    others = known | in_rows | set(settings().queues)
    for near in difflib.get_close_matches(name, others, cutoff=SIMILARITY):
        if _stem(near) != _stem(name):
            raise WrongArgumentsError(call, f"no job is in queue {name!r}. Did you mean {near!r}?")


def _queues_of_jobs(alias: str) -> list[str]:
    return list(Job.objects.using(alias).order_by("queue").values_list("queue", flat=True).distinct())


def _stem(name: str) -> str:
    """Of "tenant-7" and "tenant-8" the same."""
    return re.split(r"[^a-zA-Z]", name, maxsplit=1)[0]
