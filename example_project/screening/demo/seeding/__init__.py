"""Fills the demo's database, so that each page of the admin shows something: jobs of every state, a week of history,
limits in use, a held budget, cache entries, sessions, a dead worker. A second call writes the same again, not twice."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress

from django.db import transaction

from example_project.screening.demo.seeding import (
    caches,
    figures,
    history,
    jobs,
    limits,
    projects,
    questions,
    schedules,
    steps,
    users,
    workers,
)
from example_project.screening.demo.seeding.users import let_roles_in
from pgonly_django.models import Job, Worker

__all__ = ["ForeignDatabaseError", "let_roles_in", "seed"]

SEED = 7  # much the same rows for every newcomer


class ForeignDatabaseError(Exception):
    """The database has jobs of another project, whose queues and budgets may have the same names."""


def seed() -> bool:
    """Write all that is the demo's own: rows of its sample tasks, and rows that have its names. False, and nothing is
    written, while a worker lives: another demo runs here. Raises ForeignDatabaseError."""
    foreign = Job.objects.exclude(task__startswith="example_project.").values_list("task", flat=True).first()
    if foreign is not None:
        raise ForeignDatabaseError(
            f"This database has jobs of {foreign}. Sample rows are written only where no other project works: "
            "unset DATABASE_URL, or name a new database."
        )
    if any(map(_runs, Worker.objects.live())):
        return False
    random.seed(SEED)
    with transaction.atomic():
        _write()
    caches.write()  # never part of a transaction
    return True


def _runs(worker: Worker) -> bool:
    """The row of a worker that was just killed is live until it is silent for long enough."""
    if worker.hostname != socket.gethostname():
        return True
    with suppress(PermissionError):  # somebody else's process
        try:
            os.kill(worker.pid, 0)
        except ProcessLookupError:
            return False
    return True


def _write() -> None:
    rows = [*history.jobs(), *schedules.write(), *jobs.jobs()]
    for part in (jobs, steps, figures):
        part.write(rows)
    for of_its_own in (workers, limits, users, projects, questions):
        of_its_own.write()
    projects.ask()
