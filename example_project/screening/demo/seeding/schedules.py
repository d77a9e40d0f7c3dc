"""Schedules: one that keeps the pages moving, one of each night, one that is paused, one with skipped ticks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from example_project.screening.demo.seeding.jobs import CUSTOMERS
from example_project.screening.demo.seeding.rows import MODULE, ago
from pgonly_django.models import Schedule, Tick
from pgonly_django.models.schedule import UNPLANNED, TickOutcome

NEW_WORK = "new work for the demo"
WEEKLY = "reports of the week"


def write() -> None:
    _write(NEW_WORK, "new_work", every_seconds=15, args=[list(CUSTOMERS)])
    _write("references of the night", "import_references", cron="30 2 * * *", args=["pubmed.csv", 40_000])
    _write(WEEKLY, "make_report", cron="0 7 * * 1", timezone="Europe/Berlin", args=["Northwind", 200])
    _write("exports", "export_references", cron="0 * * * *", args=[1, "ris"], paused_at=ago(hours=30))
    _write_ticks()


def _write(name: str, task: str, **values: Any) -> None:
    timing = {"cron": None, "every_seconds": None, "paused_at": None, "next_at": UNPLANNED, "problem": None}
    Schedule.objects.update_or_create(name=name, defaults={**timing, "task": f"{MODULE}.{task}", **values})


def _write_ticks() -> None:
    """Of the last weeks. One was skipped, since the run before it had not ended."""
    Tick.objects.filter(schedule_id=WEEKLY).delete()
    for weeks in range(1, 6):
        at = ago(days=7 * weeks).replace(hour=6, minute=0, second=0, microsecond=0)
        skipped = weeks == 2  # noqa: PLR2004 - one of them
        outcome = (
            {"outcome": TickOutcome.SKIPPED, "reason": "An earlier run is unfinished."} if skipped else {}
        )
        Tick.objects.create(schedule_id=WEEKLY, tick_at=at, at=at + timedelta(seconds=0.2), **outcome)
