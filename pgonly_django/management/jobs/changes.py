"""What `pgonly_jobs` does to jobs: a batch at a time, after a question where there are many."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from uuid import UUID

from django.core.management.base import CommandError

from pgonly_django.compat import uuid7
from pgonly_django.database.connect import connect
from pgonly_django.models import Job
from pgonly_django.models.job import (
    CANCELLABLE,
    DISCARDABLE,
    FINISHED,
    HOLDABLE,
    RESUMABLE,
    RETRYABLE,
    STARTABLE,
    JobQuerySet,
    State,
)
from pgonly_django.queue.prune import prune_now

ASKS_ABOVE = 10  # so many jobs are changed without a question
BATCH = 1000
NOT_CONFIRMED = 3


@dataclass(frozen=True)
class Change:
    """A verb: the states that it changes, and what it does to a batch. Returns how many it changed."""

    states: Sequence[State]
    apply: Callable[[JobQuerySet, dict[str, Any]], int]
    past: str


def _prune(jobs: JobQuerySet, _flags: dict[str, Any]) -> int:
    ids = [str(job_id) for job_id in jobs.values_list("pk", flat=True)]
    with connect(jobs.db, application_name="pgonly jobs") as connection:
        return prune_now(connection, ids).deleted


CHANGES = {
    "retry": Change(RETRYABLE, lambda jobs, _: jobs.retry(), "retried"),
    "cancel": Change(CANCELLABLE, lambda jobs, _: jobs.cancel(), "cancelled, or asked to stop"),
    "discard": Change(DISCARDABLE, lambda jobs, flags: jobs.discard(flags["reason"]), "discarded"),
    "hold": Change(HOLDABLE, lambda jobs, flags: jobs.hold(flags["reason"]), "held"),
    "resume": Change(RESUMABLE, lambda jobs, _: jobs.resume(), "resumed"),
    "run-now": Change(STARTABLE, lambda jobs, _: jobs.run_now(), "made ready"),
    "prune": Change(FINISHED, _prune, "deleted"),
    "redrive": Change((State.FAILED,), lambda _jobs, _flags: 0, "redriven"),
}


def counted(count: int) -> str:
    return f"{count:,} {'job' if count == 1 else 'jobs'}"


def confirm(verb: str, count: int, flags: dict[str, Any]) -> None:
    """Raises CommandError where the person does not want it, or cannot be asked."""
    if count <= ASKS_ABOVE or flags["yes"]:
        return
    what = f"{verb} {counted(count)}"
    if not sys.stdin or not sys.stdin.isatty():
        raise CommandError(
            f"Not done: {what} needs --yes where there is no terminal to ask at.", returncode=NOT_CONFIRMED
        )
    sys.stderr.write(f"{what.capitalize()}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("Not done.", returncode=NOT_CONFIRMED)


def change(alias: str, jobs: JobQuerySet, verb: str, flags: dict[str, Any]) -> int:
    """Do it to `jobs`, those that there are now. Returns how many changed."""
    changed, what = 0, CHANGES[verb]
    for ids in _batches(jobs.filter(state__in=what.states)):
        try:
            changed += what.apply(Job.objects.using(alias).filter(pk__in=ids, state__in=what.states), flags)
        except KeyboardInterrupt:
            _interrupted(what.past, changed)
    return changed


def _interrupted(past: str, changed: int) -> NoReturn:
    raise CommandError(f"Interrupted: {counted(changed)} {past} before.", returncode=130)


def _batches(jobs: JobQuerySet) -> Iterator[list[UUID]]:
    """By their keys: a job that comes back into these states by then is not met again, nor is a newer one."""
    jobs, last = jobs.filter(pk__lte=uuid7()).order_by("pk"), None
    while True:
        page = jobs if last is None else jobs.filter(pk__gt=last)
        ids = list(page.values_list("pk", flat=True)[:BATCH])
        if ids:
            yield ids
        if len(ids) < BATCH:
            return
        last = ids[-1]


def argument(text: str) -> tuple[str, Any]:
    """name=value, of --argument: the value is JSON, or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
