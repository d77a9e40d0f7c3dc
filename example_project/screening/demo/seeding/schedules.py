"""Schedules with their last ticks: one that keeps the pages moving, one of each night, one of each week, one that is
paused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from django.utils import timezone

from example_project.screening.demo.sample_tasks import KEPT
from example_project.screening.demo.seeding.history import CUSTOMERS, export, references, report
from example_project.screening.demo.seeding.rows import MODULE, ago, id_at
from pgonly_django.models import Job, Schedule, Tick
from pgonly_django.models.schedule import UNPLANNED, TickOutcome

NEW_WORK, NIGHTLY, WEEKLY = "new work for the demo", "references of the night", "reports of the week"
EXPORTS, EXPORTS_PAUSED_HOURS = "exports", 30
BERLIN = ZoneInfo("Europe/Berlin")
LATE = timedelta(seconds=0.2)  # how long after a tick a worker comes to it
ENDED = timedelta(minutes=10)  # by then the job of a tick has ended
SKIPPED = {"outcome": TickOutcome.SKIPPED, "reason": "An earlier run is held."}


def write() -> list[Job]:
    """Returns the jobs of the ticks that are not pruned by now; the caller writes them."""
    _write(NEW_WORK, "new_work", every_seconds=15, args=[list(CUSTOMERS)])
    _write(NIGHTLY, "import_references", cron="30 2 * * *", args=["pubmed.csv", 40_000])
    _write(WEEKLY, "make_report", cron="0 7 * * 1", timezone=BERLIN.key, args=["Northwind", 200])
    paused_at = ago(hours=EXPORTS_PAUSED_HOURS)
    _write(EXPORTS, "export_references", cron="0 * * * *", args=[1, "ris"], paused_at=paused_at)
    this_monday, monday_before, *mondays = _mondays()
    Tick.objects.create(schedule_id=WEEKLY, tick_at=monday_before, at=monday_before + LATE, **SKIPPED)
    return [
        *_tick(NIGHTLY, _nights(), partial(references, "pubmed.csv", 40_000)),
        *_tick(WEEKLY, [this_monday, *mondays], partial(report, "Northwind", 200)),
        *_tick(EXPORTS, _hours_before(paused_at), partial(export, 1)),
    ]


def _write(name: str, task: str, **values: Any) -> None:
    timing = {"cron": None, "every_seconds": None, "paused_at": None, "next_at": UNPLANNED, "problem": None}
    facts = {**timing, "task": f"{MODULE}.{task}", "created_at": ago(days=60), **values}
    Schedule.objects.update_or_create(name=name, defaults=facts)
    Tick.objects.filter(schedule_id=name).delete()


def _tick(schedule: str, moments: list[datetime], job_of: Callable[..., Job]) -> list[Job]:
    """Writes a tick for each of `moments`. Returns its jobs, those of before KEPT left out."""
    facts = {"enqueued_by": f"schedule:{schedule}"}
    jobs = {at: job_of(at + LATE, run_at=at, **facts) for at in moments if timezone.now() - at < KEPT}
    Tick.objects.bulk_create(
        Tick(
            schedule_id=schedule, tick_at=at, at=at + LATE, job_id=jobs[at].pk if at in jobs else id_at(at)
        )
        for at in moments
    )  # fmt: skip
    return list(jobs.values())


def _nights() -> list[datetime]:
    """The newest of the last two weeks first."""
    last = (timezone.now() - ENDED - timedelta(hours=2, minutes=30)).replace(
        hour=2, minute=30, second=0, microsecond=0
    )
    return [last - timedelta(days=days) for days in range(14)]


def _mondays() -> list[datetime]:
    """At seven in Berlin, the newest first."""
    local = (timezone.now() - ENDED).astimezone(BERLIN) - timedelta(hours=7)
    last = (local - timedelta(days=local.weekday())).replace(hour=7, minute=0, second=0, microsecond=0)
    return [(last - timedelta(weeks=weeks)).astimezone(UTC) for weeks in range(5)]


def _hours_before(moment: datetime) -> list[datetime]:
    last = moment.replace(minute=0, second=0, microsecond=0)
    return [last - timedelta(hours=hours) for hours in range(12)]
