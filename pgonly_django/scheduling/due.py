"""Finds the schedules that are due and enqueues their jobs. Any number of workers may do it at once, and none leads.

One schedule is one transaction on Django's connection: its row is locked (rows that others have locked are skipped),
each tick gets its row, which is unique, its job is enqueued, and next_at moves on. A worker that dies before the commit
leaves all as it was. The database's clock decides what is due.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from pgonly_django.database.connect import TRY_AGAIN
from pgonly_django.database.on_django import first_row
from pgonly_django.database.statement import Statement, printable
from pgonly_django.events import emit
from pgonly_django.models.job import REASON_LIMIT, ClockTimestamp
from pgonly_django.models.schedule import Outcome, Schedule, Tick
from pgonly_django.queue.enqueue import aware
from pgonly_django.scheduling import calls, overlap
from pgonly_django.scheduling.timing import CronLine, Interval, Timing, TimingError, due
from pgonly_django.tables import qualified

# A schedule whose job cannot be enqueued here comes again so much later: another worker may know its task by then,
# and a deploy may bring it.
PUT_OFF_SECONDS = 30.0
# All that is due is locked by another worker, which is about to move next_at on, or has died; or a statement was
# cancelled.
LOCKED_SECONDS = 0.25

# A worker that is frozen inside the transaction keeps its schedule from ticking for so long.
LIMITS = Statement("""
SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '30s', true),
    set_config('idle_in_transaction_session_timeout', '30s', true)
""")
# Index: pgonly_tick_once, which it is all about.
NOTE_TICK = Statement(
    qualified("""
INSERT INTO pgonly_tick (schedule_id, tick_at, outcome, reason, by_person)
VALUES (%(schedule)s::text, %(tick_at)s, 'enqueued', '', false)
ON CONFLICT (schedule_id, tick_at) DO NOTHING RETURNING id
""")
)
# Index: pgonly_tick_once. The newest of each outcome stay: while a long run has many ticks skipped, its own is there.
PRUNE_TICKS = Statement(
    qualified(f"""
WITH pruned AS (
    DELETE FROM pgonly_tick WHERE schedule_id = %(schedule)s::text AND outcome = %(outcome)s::text AND tick_at < (
        SELECT tick_at FROM pgonly_tick WHERE schedule_id = %(schedule)s::text AND outcome = %(outcome)s::text
        ORDER BY tick_at DESC OFFSET {overlap.KEPT - 1} LIMIT 1
    ) RETURNING id
)
SELECT count(*) FROM pruned
""")
)


class DueSchedules:
    """For one thread. `known`: the names that this worker's code declares. A row that other code declares is left to
    the workers with that code, unless a person has edited it; rows that a person made are for all."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.known: set[str] = set()
        self._put_off: dict[str, float] = {}  # until when, by time.monotonic()
        self._reported: dict[str, str] = {}

    def run(self, is_over: Callable[[], bool]) -> float | None:
        """Enqueue all that is due. Returns in how many seconds to look again; None: once a row changes. Raises
        django.db.Error while the database is away."""
        while not is_over():
            seconds = self._next_in_seconds()
            if seconds is None or seconds > 0:
                waits = [until - time.monotonic() for until in self._put_off.values()]
                return min([*waits, *([] if seconds is None else [seconds])], default=None)
            if not self._run_one():
                return LOCKED_SECONDS
        return None

    def _rows(self) -> QuerySet[Schedule]:
        now = time.monotonic()
        self._put_off = {name: until for name, until in self._put_off.items() if until > now}
        of_anybody = Q(declared__isnull=True) | Q(edited_at__isnull=False)
        rows: QuerySet[Schedule] = Schedule.objects.using(self.database).filter(paused_at=None)
        return rows.filter(of_anybody | Q(name__in=sorted(self.known))).exclude(
            name__in=sorted(self._put_off)
        )

    def _next_in_seconds(self) -> float | None:
        first = next(iter(self.next()), None)
        return None if first is None else (first.next_at - first.now) / timedelta(seconds=1)

    def next(self) -> QuerySet[Any]:
        """The schedule whose turn is next, with the time `now`. Index: pgonly_schedule_due."""
        rows = self._rows().filter(next_at__isnull=False).annotate(now=ClockTimestamp())
        return rows.only("next_at").order_by("next_at")[:1]

    def due(self) -> QuerySet[Any]:
        """The one that has been due for longest, locked, with the time `now`. Index: pgonly_schedule_due."""
        rows = self._rows().filter(next_at__lte=Now()).annotate(now=ClockTimestamp())
        return rows.order_by("next_at").select_for_update(skip_locked=True)[:1]

    def _run_one(self) -> bool:
        """False where all that is due is locked."""
        schedule = None
        try:
            with transaction.atomic(using=self.database, durable=True):
                first_row(self.database, LIMITS, {})
                schedule = next(iter(self.due()), None)
                if schedule is not None:
                    self._run(schedule)
        except BaseException as error:  # of code of the project: it keeps no other schedule from ticking
            if schedule is None or self._is_away(error):
                raise
            self._put_off_after(schedule.name, error)
        return schedule is not None

    def _run(self, schedule: Any) -> None:
        now, timing = aware(schedule.now), timing_of(schedule)
        if schedule.is_planned:
            ticks = due(timing, aware(schedule.next_at), now, schedule.catch_up)
            if ticks.run:
                self._run_ticks(schedule, ticks.run)
            changes = {"next_at": ticks.next, "last_tick_at": ticks.last}
        else:
            changes = {"next_at": timing.next_after(now)}
        Schedule.objects.using(self.database).filter(pk=schedule.pk).update(problem=None, **changes)
        self._reported.pop(schedule.name, None)

    def _run_ticks(self, schedule: Schedule, ticks: list[datetime]) -> None:
        task = calls.task_of(schedule, self.database)
        for tick in ticks:
            noted = first_row(self.database, NOTE_TICK, {"schedule": schedule.name, "tick_at": tick})
            if noted is not None:
                row = Tick.objects.using(self.database).filter(pk=int(noted[0]))
                row.update(**self._run_tick(schedule, task, tick))
        for outcome in Outcome:
            first_row(self.database, PRUNE_TICKS, {"schedule": schedule.name, "outcome": outcome.value})

    def _run_tick(self, schedule: Schedule, task: Any, tick: datetime) -> dict[str, Any]:
        """Returns what its row says of it."""
        name = schedule.name
        reason = overlap.reason_to_skip(schedule, task.queue_name, self.database)
        if reason:
            message = f"The tick of {name} at {tick:%Y-%m-%d %H:%M:%S %Z} was skipped. {reason}"
            emit("scheduling.skipped", message, schedule=name, reason=reason)
            return {"outcome": Outcome.SKIPPED, "reason": reason}
        job_id = calls.enqueue(task, schedule, tick)
        message = f"{name} enqueued {schedule.task} {job_id}."
        emit("scheduling.enqueued", message, level=logging.DEBUG, schedule=name, job_id=job_id)
        return {"job_id": job_id}

    def _is_away(self, error: BaseException) -> bool:
        is_of_database = isinstance(error, (OperationalError, InterfaceError))
        return is_of_database and not connections[self.database].is_usable()

    def _put_off_after(self, name: str, error: BaseException) -> None:
        """The tick stays due. The page and the log say why, once."""
        if isinstance(error.__cause__, TRY_AGAIN):
            self._put_off[name] = time.monotonic() + LOCKED_SECONDS
            return
        self._put_off[name] = time.monotonic() + PUT_OFF_SECONDS
        problem = printable(f"{type(error).__name__}: {error}")[:REASON_LIMIT]
        row = Schedule.objects.using(self.database).filter(pk=name)
        is_new = row.exclude(problem=problem).update(problem=problem) > 0
        if is_new and self._reported.get(name) != problem:
            message = f"The schedule {name} is due and cannot be enqueued, it is tried again: {problem}"
            emit("scheduling.failed", message, level=logging.ERROR, schedule=name)
        self._reported[name] = problem


def timing_of(schedule: Schedule) -> Timing:
    """Raises TimingError for what another program wrote there, or a zone that this system does not have."""
    if schedule.cron is not None:
        return CronLine(schedule.cron, schedule.timezone)
    tick = schedule.next_at if schedule.is_planned else schedule.last_tick_at
    try:
        every = timedelta(seconds=schedule.every_seconds or 0)
    except (OverflowError, ValueError) as error:  # infinite, or not a number
        raise TimingError(f"every_seconds cannot be {schedule.every_seconds}.") from error
    return Interval(every, aware(tick or schedule.created_at))
