"""Brings the rows into line with what code and settings declare, while workers with other code may do the same.

A row that the code no longer has ends in two steps. It ticks no more once no worker has that code (see DueSchedules).
It is deleted when no worker has confirmed it for STALE_AFTER, or at once where no other worker lives; not while one
sleeps, which confirms none. During a rolling deploy neither version deletes what the other one needs. A row that a
person paused, edited or made stays.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from pgonly_django.events import emit
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.schedule import CONFIRM_EVERY, Schedule
from pgonly_django.models.worker import Worker
from pgonly_django.scheduling.settings import declared

STALE_AFTER = 3 * CONFIRM_EVERY
# An idle worker of the version before sends a heartbeat every five minutes.
LIVE_WITHIN = timedelta(minutes=6)


def declare(database: str, worker_id: UUID, lease_for: timedelta) -> set[str]:
    """What this process declares, by name. Its rows say the same afterwards, and stale ones are gone. Raises
    django.db.Error."""
    mine = declared(database)
    rows: Any = Schedule.objects.using(database)
    rows.declare({name: each.columns() for name, each in mine.items()})
    others = Worker.objects.using(database).live(max(lease_for, LIVE_WITHIN)).exclude(pk=worker_id)
    if not others.asleep().exists():
        _delete_stale(database, mine, is_alone=not others.exists())
    return set(mine)


def needs_confirming(database: str) -> bool:
    """Whether there is a row that some code declares: then declare() every CONFIRM_EVERY."""
    return Schedule.objects.using(database).filter(declared__isnull=False).exists()


def _delete_stale(database: str, mine: Collection[str], *, is_alone: bool) -> None:
    with transaction.atomic(using=database):
        rows: QuerySet[Schedule] = Schedule.objects.using(database).exclude(name__in=mine)
        rows = rows.filter(declared__isnull=False, edited_at=None, paused_at=None)
        if not is_alone:
            rows = rows.filter(declared_at__lt=ClockTimestamp() - STALE_AFTER)
        # Locked first: a worker with the code that has it may be at its tick.
        names = [row.name for row in rows.select_for_update(skip_locked=True)]
        Schedule.objects.using(database).filter(name__in=names).delete()
    for name in names:
        message = f"The schedule {name} is not declared any more and was deleted."
        emit("scheduling.removed", message, level=logging.INFO, schedule=name)
