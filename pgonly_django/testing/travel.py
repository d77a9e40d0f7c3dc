"""time_travel(): makes it later for jobs and schedules. No clock moves: rows are made older by that time."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from asgiref.sync import sync_to_async
from django.db import DatabaseError, models
from django.db.models import F
from django.db.models.expressions import ExpressionWrapper
from django.db.models.functions import Now
from django.db.transaction import TransactionManagementError

from pgonly_django.compat import uuid7
from pgonly_django.conf import LONGEST, settings
from pgonly_django.database.on_django import all_rows
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.models import Job, Limiter, QueueTokens, Wait
from pgonly_django.models.schedule import UNPLANNED, Schedule
from pgonly_django.queue.enqueue import aware
from pgonly_django.scheduling.due import DueSchedules, timing_of
from pgonly_django.scheduling.settings import declare
from pgonly_django.tasks.registry import import_tasks
from pgonly_django.testing.autocommit import as_in_autocommit
from pgonly_django.testing.backends import databases_of, postgres_backends

AGED: tuple[type[models.Model], ...] = (Job, Wait, QueueTokens, Limiter)
NOT_AGED = ("lease_expires_at",)  # a worker of the test that runs a job continues
# The time over which all open blocks have travelled.
_travelled = timedelta()


class time_travel:  # noqa: N801 - read as a function, as contextlib's own
    """Makes it later for jobs in the block: those that are due by then run in a drain(), and rates, throttles and
    cool-downs have moved on. In coroutines use `async with`.

        with time_travel(timedelta(hours=2)):
            drain()

    `to`: a timedelta or a datetime. A block inside another begins at the time of the outer one. After the block all is
    as before. `schedules`: True, or their names. Their ticks up to that time are enqueued, as after a time in which no
    worker ran, by their `catch_up` and `overlap`. Raises WrongArgumentsError for a time that has passed, and for
    unknown schedules.
    """

    def __init__(self, to: timedelta | datetime, *, schedules: bool | Collection[str] = False) -> None:
        if not isinstance(to, timedelta | datetime):
            raise WrongArgumentsError("time_travel()", f"it needs a timedelta or a datetime, got {to!r}")
        if isinstance(schedules, str) or not isinstance(schedules, bool | Collection):
            raise WrongArgumentsError("time_travel()", f"schedules must be True or names, got {schedules!r}")
        self._to, self._schedules = to, schedules
        self._aliases: list[str] = []
        self._by = timedelta()

    def __enter__(self) -> Self:
        global _travelled  # noqa: PLW0603 - it is the same time for every thread of a test
        aliases = databases_of(postgres_backends())
        by = self._distance(aliases[0])
        known = self._known(aliases) if self._schedules else {}
        for alias in aliases:
            _age(alias, by)
        self._aliases, self._by = aliases, by
        _travelled += by
        try:
            for alias, names in known.items():
                _tick(alias, names)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _travelled  # noqa: PLW0603 - likewise
        _travelled -= self._by
        for alias in self._aliases:
            # Where the block has broken the transaction, its error counts, and the test's end undoes all.
            with suppress(*([DatabaseError, TransactionManagementError] if error is not None else [])):
                _age(alias, -self._by)

    async def __aenter__(self) -> Self:
        return await sync_to_async(self.__enter__)()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await sync_to_async(self.__exit__)(kind, error, traceback)

    def _distance(self, alias: str) -> timedelta:
        to = self._to
        by = to if isinstance(to, timedelta) else aware(to) - _now(alias) - _travelled
        if not timedelta() <= by <= LONGEST:
            reason = f"it goes forward, by at most {LONGEST.days} days, got {to}"
            raise WrongArgumentsError("time_travel()", reason)
        return by

    def _known(self, aliases: list[str]) -> dict[str, set[str]]:
        """Returns the schedules that are wanted, by their databases; makes and plans their rows."""
        import_tasks()
        everything = {alias: _declared(alias) for alias in aliases}
        known = set().union(*everything.values())
        wanted = known if self._schedules is True else set(self._schedules)  # type: ignore[arg-type] # False is not here
        for name in sorted(wanted - known):
            near = difflib.get_close_matches(name, sorted(known), n=1)
            others = ", ".join(sorted(known)) or "none"
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {others}"
            raise WrongArgumentsError("time_travel()", f"there is no schedule {name!r}; {hint}")
        return {alias: names & wanted for alias, names in everything.items() if names & wanted}


class _TravellingSchedules(DueSchedules):
    """The schedules at the time to which the test has travelled. Their errors are raised in the test."""

    def __init__(self, database: str, names: set[str]) -> None:
        super().__init__(database)
        self.known = names
        self._now = ExpressionWrapper(Now() + _travelled, output_field=models.DateTimeField())
        self.job_ids: list[str] = []

    def _ours(self, rows: Any) -> Any:
        return rows.filter(name__in=self.known)

    def _run_tick(self, schedule: Schedule, task: Any, tick: datetime) -> dict[str, Any] | None:
        told = super()._run_tick(schedule, task, tick)
        self.job_ids += [told["job_id"]] if told and "job_id" in told else []
        return told

    def _put_off_after(self, name: str, error: BaseException, said: str = "") -> None:  # noqa: ARG002 - the overridden signature
        raise error


def _declared(alias: str) -> set[str]:
    """Returns all schedules in this database: those that the code declares now have their rows, and a next tick."""
    with as_in_autocommit():
        names = declare(alias, uuid7(), timedelta(seconds=settings().lease_seconds))
        rows: Any = Schedule.objects.using(alias)
        now = _now(alias) + _travelled
        for row in rows.filter(next_at__lte=UNPLANNED):
            rows.filter(pk=row.pk).update(next_at=timing_of(row).next_after(now))
        return names | set(rows.filter(declared__isnull=True).values_list("name", flat=True))


def _tick(alias: str, names: set[str]) -> None:
    """Enqueues the ticks that are due by now. A tick keeps its time; its jobs get as much older as all other jobs."""
    ticking = _TravellingSchedules(alias, names)
    with as_in_autocommit():
        ticking.run(lambda: False)
    Job.objects.using(alias).filter(pk__in=ticking.job_ids).update(run_at=F("run_at") - _travelled)


def _age(alias: str, by: timedelta) -> None:
    for model in AGED:
        fields = [each for each in model._meta.fields if isinstance(each, models.DateTimeField)]  # noqa: SLF001 - public in all but its name
        times = [each.name for each in fields if each.name not in NOT_AGED]
        model._base_manager.using(alias).update(**{name: F(name) - by for name in times})  # noqa: SLF001 - likewise


def _now(alias: str) -> datetime:
    ((now,),) = all_rows(alias, "SELECT clock_timestamp()")
    return aware(now)
