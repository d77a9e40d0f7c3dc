"""Unfinished jobs that cannot run with this code, as `check --deploy` finds them."""

from __future__ import annotations

from collections.abc import Iterator

from pgonly_django.models import Job
from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.our_tables import belongs_to
from pgonly_django.tasks.stored_jobs import check_jobs_of

STUCK = "pgonly_django.E501"


def examine_jobs(alias: str) -> Iterator[Finding]:
    """D101: jobs whose task no longer imports, or whose arguments no longer fit. D102: not all were looked at."""
    if not belongs_to(alias, Job):
        return
    for message in check_jobs_of(alias):
        is_stuck = message.id == STUCK
        yield Finding(
            id="D101" if is_stuck else "D102",
            level=Level.ERROR if is_stuck else Level.INFO,
            fact=message.msg,
            advice=message.hint or "",
            data={"check": message.id},
        )
