"""Finds the schedules that are due and enqueues their jobs. Any number of workers may do it at once, without a leader.

One schedule is one transaction on Django's connection: its row is locked (rows that others have locked are skipped),
each tick gets its row, which is unique, its job is enqueued, and next_at moves on. A worker that dies before the commit
leaves all as it was. The database's clock decides what is due.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from types import TracebackType
from typing import Any, NamedTuple, Self

from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.models import BooleanField, DurationField, ExpressionWrapper, F, Q, QuerySet
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now

from pgonly_django.database.connect import TRY_AGAIN
from pgonly_django.database.on_django import first_row
from pgonly_django.database.statement import Statement
from pgonly_django.error_texts import as_reason
from pgonly_django.events import emit
from pgonly_django.models.schedule import UNPLANNED, Schedule, Tick, TickOutcome
from pgonly_django.queue.enqueue import aware
from pgonly_django.scheduling import calls
from pgonly_django.scheduling.timing import CronLine, Interval, Timing, due
from pgonly_django.tables import qualified

# The time for which other schedules wait for the one whose turn it is.
TURN_SECONDS = 1.0

# By database: the schedules whose turns take longer. Each has a thread until its call returns.
in_hand: defaultdict[str, set[str]] = defaultdict(set)
# A schedule whose job cannot be enqueued here is tried again after this time: another worker may know its task by then,
# or a deploy may bring it. Of many such schedules one is tried every TRY_SECONDS. They get as much time as the others
# have taken, or one turn, and come after them.
PUT_OFF_SECONDS, TRY_SECONDS = 30.0, 0.1
# The number of schedules whose first ticks one transaction computes, in about 0.2 s.
PLANNED_AT_ONCE = 500
# All that is due is locked by another worker, which is about to move next_at on, or has died; or a statement was
# cancelled.
LOCKED_SECONDS = 0.25
# The time between two looks at a run that a tick replaces, and whose unique key the job of the tick needs.
REPLACING_SECONDS = 1.0
# What a schedule that catches up enqueues within this time, at most, is one transaction; then the others have their
# turns. After this time of turns we look which others are due by now.
PORTION_SECONDS = 0.5
# A worker that is frozen inside the transaction keeps its schedule from ticking for this long.
LIMITS = Statement("""
SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '30s', true),
    set_config('idle_in_transaction_session_timeout', '30s', true)
""")
# Index: pgonly_tick_once. The newest of each outcome stay: while a long run has many ticks skipped, its own is there.
PRUNE_TICKS = Statement(
    qualified(f"""
WITH pruned AS (
    DELETE FROM pgonly_tick WHERE schedule_id = %(schedule)s::text AND outcome = %(outcome)s::text AND tick_at < (
        SELECT tick_at FROM pgonly_tick WHERE schedule_id = %(schedule)s::text AND outcome = %(outcome)s::text
        ORDER BY tick_at DESC OFFSET {calls.TICKS_SEEN - 1} LIMIT 1
    ) RETURNING id
)
SELECT count(*) FROM pruned
""")
)


# Index: the primary key.
PLAN = Statement(
    qualified("""
WITH planned AS (
    UPDATE pgonly_schedule AS s SET next_at = first.next_at, problem = NULL
    FROM unnest(%(names)s::text[], %(next_ats)s::timestamptz[]) AS first (name, next_at)
    WHERE s.name = first.name RETURNING 1
)
SELECT count(*) FROM planned
""")
)


class Turn:
    """A context manager around the turn of a schedule. Where it takes longer than TURN_SECONDS, it `is_long`, and
    `on_long` is called in another thread with the name, to continue with all schedules except those in hand; None: it
    may take any time."""

    def __init__(self, database: str, name: str, on_long: Callable[[str], None] | None) -> None:
        self.database, self.name, self.is_long = database, name, False
        self._on_long, self._is_over, self._lock = on_long, False, threading.Lock()
        self._timer = threading.Timer(TURN_SECONDS, self._become_long)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        if self._on_long is not None:
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            in_hand[self.database].discard(self.name)

    def _become_long(self) -> None:
        with self._lock:
            if self._is_over:
                return
            self.is_long = True
            in_hand[self.database].add(self.name)
        assert self._on_long is not None
        self._on_long(self.name)


class Waiting(NamedTuple):
    """A row of look()."""

    name: str
    has_plan: bool
    has_problem: bool
    until_due: timedelta


class DueSchedules:
    """The schedules that are due. `known`: the names that this worker's code declares. A row that other code declares
    is left to the workers with that code, unless a person has edited it; rows that a person made are for all. `go_on`
    is called in another thread if a schedule hangs (see Turn), to handle the others; the run() that hangs is over
    then."""

    def __init__(self, database: str, go_on: Callable[[], None] | None = None) -> None:
        self.database = database
        self.known: set[str] = set()
        self._now: Any = Now()
        self._go_on = go_on
        self._put_off: dict[str, float] = {}  # until this time.monotonic()
        # When schedules that are still due had their turn; of schedules that have failed, the end of being put off.
        self._had_turn: dict[str, float] = {}
        self._reported: dict[str, str] = {}
        self._slow: set[str] = set()

    def run(self, is_over: Callable[[], bool]) -> float | None:
        """Enqueues all that is due. Returns the seconds until the next look; None: when a row changes. Raises
        django.db.Error while the database is unavailable."""
        while not is_over():
            due, seconds = self._due_and_seconds()
            if not due:
                return seconds
            has_run = self._plan([row.name for row in due if not row.has_plan][:PLANNED_AT_ONCE])
            rows = self._in_turn(row for row in due if row.has_plan)
            for has_problem, share in ((False, PORTION_SECONDS), (True, TRY_SECONDS)):
                until = time.monotonic() + share
                for row in rows:
                    if row.has_problem is not has_problem:
                        continue
                    if is_over():
                        return None
                    has_run |= self._run_one(row.name)
                    if time.monotonic() >= until:
                        break
            if not has_run:
                return LOCKED_SECONDS
        return None

    def _due_and_seconds(self) -> tuple[list[Waiting], float | None]:
        """Returns what is due and not left out, and the seconds until the first of the others is due."""
        rows = [Waiting(*row) for row in self.look()]
        failed = {row.name for row in rows if row.has_problem}
        now = time.monotonic()
        for name, until in tuple(self._put_off.items()):  # the thread of a long turn may add one
            if until <= now:
                self._put_off.pop(name, None)
                if name in failed:
                    self._had_turn[name] = until
        # Each look reads all that is due, which may be thousands that have failed: it then tries ten of them.
        waits = [
            max(until - now, 10 * TRY_SECONDS if name in failed else LOCKED_SECONDS)
            for name, until in tuple(self._put_off.items())
        ]
        waits += [row.until_due / timedelta(seconds=1) for row in rows if row.until_due > timedelta(0)]
        left_out = {*self._put_off, *in_hand[self.database]}
        due = [row for row in rows if row.until_due <= timedelta(0) and row.name not in left_out]
        return due, min(waits, default=None)

    def _in_turn(self, due: Iterable[Waiting]) -> list[Waiting]:
        """Returns the due schedules in their order. Schedules that had a turn just now, or have failed here, come last.
        After each late one comes one that has just become due: thousands may be late."""
        rows = sorted(due, key=attrgetter("until_due"))
        self._had_turn = {row.name: self._had_turn.get(row.name, 0.0) for row in rows}
        order = [
            (self._had_turn[row.name], min(place, len(rows) - 1 - place), place)
            for place, row in enumerate(rows)
        ]
        return [rows[place] for *_, place in sorted(order)]

    def look(self) -> QuerySet[Any, Any]:
        """Returns what is due, and the first of the others. Index: pgonly_schedule_due."""
        rows = self._ours(self._rows()).annotate(
            has_plan=Q(next_at__gt=UNPLANNED),
            has_problem=Q(problem__isnull=False),
            until_due=ExpressionWrapper(F("next_at") - self._now, DurationField()),
        )
        due = rows.filter(next_at__lte=self._now).values_list(*Waiting._fields)
        later = rows.filter(next_at__gt=self._now).order_by("next_at").values_list(*Waiting._fields)
        return due.union(later[:1], all=True)

    def turn(self, names: Sequence[str]) -> QuerySet[Any]:
        """Locks the schedules that are still due, and returns them with the time `now`. Index: the primary key."""
        rows = self._rows().filter(name__in=names, next_at__lte=self._now)
        return rows.annotate(now=self._now).select_for_update(skip_locked=True)

    def _rows(self) -> QuerySet[Schedule]:
        rows: QuerySet[Schedule] = Schedule.objects.using(self.database).filter(paused_at=None)
        return rows

    def _ours(self, rows: QuerySet[Schedule]) -> QuerySet[Schedule]:
        # One parameter: Django would convert each of the thousands of an IN by itself.
        is_known = RawSQL("name = ANY(%s)", [sorted(self.known)], BooleanField())
        return rows.filter(Q(declared__isnull=True) | Q(edited_at__isnull=False) | Q(is_known))

    def _plan(self, names: Sequence[str]) -> bool:
        """Computes the first ticks of new or changed schedules. Returns False where all are locked."""
        if not names:
            return False
        first, failed = {}, {}
        with transaction.atomic(using=self.database, durable=True):
            first_row(self.database, LIMITS, {})
            for row in self.turn(names).filter(next_at__lte=UNPLANNED):
                try:
                    first[row.name] = timing_of(row).next_after(aware(row.now))
                except Exception as wrong:  # noqa: BLE001 - a cron line or a zone that a person wrote
                    failed[row.name] = wrong
            first_row(self.database, PLAN, {"names": list(first), "next_ats": list(first.values())})
        for name in first:
            self._reported.pop(name, None)
        for name, error in failed.items():
            self._put_off_after(name, error)
        return bool(first or failed)

    def _run_one(self, name: str) -> bool:
        """Returns False if the schedule is locked, or another worker was faster."""
        turn = None
        # A turn ends after its failure is noted: no other thread takes it before that.
        with ExitStack() as stack:
            try:
                with transaction.atomic(using=self.database, durable=True):
                    first_row(self.database, LIMITS, {})
                    schedule = next(iter(self.turn([name]).filter(next_at__gt=UNPLANNED)), None)
                    if schedule is not None:
                        on_long = self._go_on and self._go_on_without
                        turn = stack.enter_context(Turn(self.database, name, on_long))
                        self._run(schedule)
            except BaseException as error:  # of code of the project: it keeps no other schedule from ticking
                if turn is None or self._is_away(error):
                    raise
                self._put_off_after(name, error, "It took long. " if turn.is_long else "")
            else:
                if turn is not None and not turn.is_long:
                    self._slow.discard(name)
        return turn is not None

    def _go_on_without(self, name: str) -> None:
        """Continues without the schedule, in another thread."""
        if name not in self._slow:
            self._slow.add(name)
            message = (
                f"The schedule {name} still enqueues its job after {TURN_SECONDS:g} s. The others continue."
            )
            emit("scheduling.slow", message, level=logging.WARNING, schedule=name)
        assert self._go_on is not None
        self._go_on()

    def _run(self, schedule: Any) -> None:
        timing = timing_of(schedule)
        ticks = due(timing, aware(schedule.next_at), aware(schedule.now), schedule.catch_up)
        last: Any = ticks.last
        next_at = ticks.next
        if (done := self._run_ticks(schedule, ticks.run)) < len(ticks.run):
            last = ticks.run[done - 1] if done else F("last_tick_at")
            next_at = ticks.run[done]
        if next_at is not None and next_at <= aware(schedule.now):
            self._had_turn[schedule.name] = time.monotonic()
        rows = Schedule.objects.using(self.database).filter(pk=schedule.pk)
        rows.update(problem=None, next_at=next_at, last_tick_at=last)
        self._reported.pop(schedule.name, None)

    def _run_ticks(self, schedule: Schedule, ticks: list[datetime]) -> int:
        """Returns the number of ticks that it has come to, within the time of a turn."""
        if not ticks:
            return 0
        task, until, done = calls.task_of(schedule, self.database), time.monotonic() + PORTION_SECONDS, 0
        for tick in ticks:
            if not self._come_to_tick(schedule, task, tick):
                self._put_off[schedule.name] = time.monotonic() + REPLACING_SECONDS
                break
            done += 1
            if time.monotonic() >= until:
                break
        for outcome in TickOutcome:
            first_row(self.database, PRUNE_TICKS, {"schedule": schedule.name, "outcome": outcome.value})
        return done

    def _come_to_tick(self, schedule: Schedule, task: Any, tick: datetime) -> bool:
        """Returns False if the tick has to wait. No other worker makes its row, since the schedule's row is locked;
        otherwise the index pgonly_tick_once would roll all of this back."""
        ticks, times = Tick.objects.using(self.database), {"schedule": schedule, "tick_at": tick}
        if ticks.filter(**times).exists():
            return True
        columns = self._run_tick(schedule, task, tick)
        if columns is not None:
            ticks.create(**times, **columns)
        return columns is not None

    def _run_tick(self, schedule: Schedule, task: Any, tick: datetime) -> dict[str, Any] | None:
        """Returns the columns of the tick's row; None if the tick has to wait."""
        name = schedule.name
        reason = calls.reason_to_skip(schedule, task.queue_name, self.database)
        if reason is None:
            return None
        skipped = {"outcome": TickOutcome.SKIPPED, "reason": reason}
        columns = skipped if reason else calls.enqueue(task, schedule, tick)
        if job_id := columns.get("job_id"):
            message = f"{name} enqueued {schedule.task} {job_id}."
            emit("scheduling.enqueued", message, level=logging.DEBUG, schedule=name, job_id=job_id)
        else:
            reason = columns["reason"]
            message = f"The tick of {name} at {tick:%Y-%m-%d %H:%M:%S %Z} was skipped. {reason}"
            emit("scheduling.skipped", message, schedule=name, reason=reason)
        return columns

    def _is_away(self, error: BaseException) -> bool:
        is_of_database = isinstance(error, (OperationalError, InterfaceError))
        return is_of_database and not connections[self.database].is_usable()

    def _put_off_after(self, name: str, error: BaseException, said: str = "") -> None:
        """Leaves the tick due. The page and the log say why, once."""
        if isinstance(error.__cause__, TRY_AGAIN):
            self._put_off[name] = time.monotonic() + LOCKED_SECONDS
            return
        seconds = max(PUT_OFF_SECONDS, TRY_SECONDS * len(self._put_off))
        self._put_off[name] = time.monotonic() + seconds
        problem = as_reason(f"{said}{type(error).__name__}: {error}")
        row = Schedule.objects.using(self.database).filter(pk=name)
        is_new = row.exclude(problem=problem).update(problem=problem) > 0
        if is_new and self._reported.get(name) != problem:
            message = f"The schedule {name} is due, but its job cannot be enqueued; trying again: {problem}"
            emit("scheduling.failed", message, level=logging.ERROR, schedule=name)
        self._reported[name] = problem


def timing_of(schedule: Schedule) -> Timing:
    """Raises TimingError for a zone that this system does not have."""
    if schedule.cron is not None:
        return CronLine(schedule.cron, schedule.timezone)
    tick = schedule.next_at if schedule.is_planned else schedule.last_tick_at
    base = aware(tick or schedule.created_at).astimezone(UTC)
    return Interval(timedelta(seconds=schedule.every_seconds or 0), base)
