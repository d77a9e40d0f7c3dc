"""The clocks: of this host, of the database, and of the hosts where workers and sites run.

All times in rows are the database's, but for those that a program gives: `run_at`, and the ids of new rows, whose first
48 bits are the milliseconds of their host's clock (UUID version 7). So a row says how its host's clock went.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from django.db import connections

from pgonly_django.models import Job, Worker
from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.our_tables import belongs_to
from pgonly_django.monitoring.doctor.reading import reading
from pgonly_django.wording import duration

WARNING_SECONDS, ERROR_SECONDS = 2.0, 60.0
# A row may be written so long after its id was made: a worker waits for its database, a call of enqueue_many() makes
# all ids first.
ROW_LATE_SECONDS = 60.0
WORKERS_AT_MOST, JOBS_AT_MOST = 100, 500
SYNCHRONISE = (
    "Synchronise it: timedatectl set-ntp true (or start chrony), and look: timedatectl timesync-status"
)
V7 = 7

CLOCK = "SELECT date_part('epoch', clock_timestamp())"


def examine_this_host(alias: str) -> Iterator[Finding]:
    """D071: the clock of this host is not that of the database."""
    with reading(alias) as cursor:
        before = time.time()
        cursor.execute(CLOCK)
        (database,) = cursor.fetchone()
        after = time.time()
    ahead = (before + after) / 2 - database
    if abs(ahead) - (after - before) / 2 >= WARNING_SECONDS:
        yield Finding(
            id="D071",
            level=_level(ahead),
            fact=f"The clock of this host is {_off(ahead)} that of the database {alias!r}: run_at and countdowns that "
            "are computed here are off by as much.",
            advice=f"{SYNCHRONISE}, on both.",
            data={"ahead_seconds": ahead},
        )


def _level(ahead: float) -> Level:
    return Level.ERROR if abs(ahead) >= ERROR_SECONDS else Level.WARNING


def _off(ahead: float) -> str:
    return f"{duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'}"


def examine_workers(alias: str) -> Iterator[Finding]:
    """D072: the clock of a worker's host was off when the worker started."""
    if not belongs_to(alias, Worker):
        return
    started = Worker.objects.using(alias).filter(stopped_at=None).order_by("-heartbeat_at")
    with reading(alias):
        rows = list(started.values_list("hostname", "name", "id", "started_at")[:WORKERS_AT_MOST])
    by_host: dict[str, tuple[float, str]] = {}
    for host, name, row_id, started_at in rows:
        ahead = _ahead(alias, row_id, started_at)
        if ahead is not None:
            by_host[host] = max(by_host.get(host, (0.0, "")), (ahead, name), key=lambda each: abs(each[0]))
    for host, (ahead, name) in by_host.items():
        if _is_off(ahead):
            yield Finding(
                id="D072",
                level=_level(ahead),
                fact=f"The clock of the host {host} was {_off(ahead)} that of the database when the worker {name} "
                "started: what its jobs compute from the time is off.",
                advice=f"{SYNCHRONISE}, on {host}; then restart the worker.",
                data={"hostname": host, "worker": name, "ahead_seconds": ahead},
            )


def examine_enqueuing(alias: str) -> Iterator[Finding]:
    """D073: jobs were enqueued by hosts whose clock is off. Index: the primary key, the newest JOBS_AT_MOST."""
    if not belongs_to(alias, Job):
        return
    with reading(alias):
        rows = list(Job.objects.using(alias).order_by("-pk").values_list("id", "enqueued_at")[:JOBS_AT_MOST])
    found = [ahead for job_id, at in rows if (ahead := _ahead(alias, job_id, at)) is not None]
    off = [ahead for ahead in found if _is_off(ahead)]
    if off:
        worst = max(off, key=abs)
        yield Finding(
            id="D073",
            level=Level.WARNING,
            fact=f"{len(off)} of the last {len(found)} jobs were enqueued by a host whose clock was up to "
            f"{_off(worst)} that of the database.",
            advice=f"{SYNCHRONISE}, on the hosts of the site and of the workers. "
            "manage.py pgonly_doctor --only clocks, run there, says which it is.",
            data={"jobs": len(off), "of": len(found), "ahead_seconds": worst},
        )


def _is_off(ahead: float) -> bool:
    """An id is older than its row anyway."""
    return ahead >= WARNING_SECONDS or ahead <= -ROW_LATE_SECONDS


def _ahead(alias: str, row_id: UUID, written_at: datetime | None) -> float | None:
    """By how many seconds the host's clock was ahead. None where the id has no time: of a copied or a hand-made row."""
    if written_at is None or row_id.version != V7:
        return None
    if written_at.tzinfo is None:  # without USE_TZ, in the zone of the connection
        written_at = written_at.replace(tzinfo=connections[alias].timezone)
    return (row_id.int >> 80) / 1000 - written_at.timestamp()
