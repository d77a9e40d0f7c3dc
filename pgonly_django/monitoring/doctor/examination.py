"""The examination of one database, subject by subject. A new condition is a row of a table and the part that finds it,
named in SUBJECTS; its id goes into docs/how-to/doctor.md."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from psycopg.errors import UndefinedTable

from pgonly_django.models import Job, Worker
from pgonly_django.monitoring import conditions
from pgonly_django.monitoring.doctor import connections as connections_of
from pgonly_django.monitoring.doctor import server, tables, vacuum
from pgonly_django.monitoring.doctor.reading import OUR_TABLES, Part, belongs_to, not_read, reading, rows
from pgonly_django.monitoring.findings import ORDER, Condition, Finding, Level, database_flag
from pgonly_django.monitoring.queues import queues
from pgonly_django.monitoring.waiting import forgotten_waits
from pgonly_django.monitoring.workers import served_queues, workers

# After so long no further subject begins. Each statement has a limit, too.
WHOLE_SECONDS = 20.0
TOO_LATE = Condition(
    "D005",
    Level.INFO,
    "This was left out: the examination had taken {seconds:g} s by then.",
    "Look at this subject alone: manage.py pgonly_doctor --only SUBJECT",
)


def _queues(alias: str) -> Iterator[Finding]:
    """D111: no live worker serves a queue. D112: its jobs wait long. D113: it is paused."""
    if belongs_to(alias, Job):
        with reading(alias):
            found, served = queues(alias), served_queues(alias)
        yield from conditions.of_queues(found, served, alias)


def _workers(alias: str) -> Iterator[Finding]:
    """D121: no worker is live. D122: one is silent."""
    if not belongs_to(alias, Worker):
        return
    with reading(alias):
        found, has_jobs = workers(alias), Job.objects.using(alias).exists()
    if not any(worker.is_live for worker in found):
        # Where there never was a job, the database may be that of a cache alone.
        level = None if has_jobs else Level.INFO
        yield conditions.NO_WORKER.finding(level=level, _database=database_flag(alias))
    yield from conditions.of_workers(found)


def _waits(alias: str) -> Iterator[Finding]:
    """D114: jobs have waited for an event for long, without a deadline."""
    if belongs_to(alias, Job):
        with reading(alias):
            found = forgotten_waits(alias)
        yield from conditions.of_waits(found, alias)


class Subject(NamedTuple):
    """A subject of the examination. `parts` are called with an alias, one after the other. One that fails does not stop
    the others. `needs_tables`: all of them read tables of ours."""

    name: str
    title: Promise | str
    parts: tuple[Part, ...]
    needs_tables: bool = False


SUBJECTS = (
    Subject("server", _("Server"), (server.kind,)),
    Subject("tables", _("Tables"), (tables.placement, tables.migrations)),
    Subject("indexes", _("Indexes"), (tables.indexes,), needs_tables=True),
    Subject("queues", _("Queues"), (_queues, _waits), needs_tables=True),
    Subject("workers", _("Workers"), (_workers,), needs_tables=True),
    Subject("listen", _("LISTEN and NOTIFY"), (connections_of.notify, connections_of.notify_queue)),
    Subject("vacuum", _("Transactions and locks"), vacuum.HOLDERS),
    Subject("dead-rows", _("Dead rows"), vacuum.DEAD_ROWS),
    Subject("connections", _("Connections"), (connections_of.in_use, connections_of.pools)),
    Subject("settings", _("Settings of PostgreSQL"), (server.settings,)),
)
NAMES = tuple(subject.name for subject in SUBJECTS)


@dataclass(frozen=True, slots=True)
class Examined:
    """One subject. Without findings nothing is wrong with it."""

    name: str
    title: Promise | str
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Examination:
    alias: str
    server: str  # "PostgreSQL 17.2"
    subjects: list[Examined]
    seconds: float

    @property
    def findings(self) -> list[Finding]:
        """Returns all findings, the worst first."""
        found = [finding for subject in self.subjects for finding in subject.findings]
        return sorted(found, key=lambda finding: ORDER.index(finding.level))

    def count(self, level: Level) -> int:
        return sum(finding.level == level for finding in self.findings)

    def has(self, limit: Level) -> bool:
        """Returns whether a finding is as bad as that, or worse."""
        return any(self.count(level) for level in ORDER[: ORDER.index(limit) + 1])

    def as_dict(self) -> dict[str, Any]:
        return {
            "database": self.alias,
            "server": self.server,
            "seconds": round(self.seconds, 3),
            "subjects": [subject.name for subject in self.subjects],
            "counts": {level.value: self.count(level) for level in ORDER},
            "findings": [finding.as_dict() for finding in self.findings],
        }


def examine(alias: str, only: Collection[str] = (), skip: Collection[str] = ()) -> Examination:
    """Examines the subjects `only`, or all except those of `skip`. Takes up to WHOLE_SECONDS, and what one subject
    takes. It changes nothing, and sends one NOTIFY, on a channel on which no worker listens. Raises django.db.Error
    where the database does not answer.
    """
    began, kind = time.monotonic(), server.server_of(alias)
    chosen = [each for each in SUBJECTS if (not only or each.name in only) and each.name not in skip]
    if kind.is_cockroach:
        chosen = [*SUBJECTS[:1]]  # it answers most questions of the others with an error
    # D051 to D053 say what to do where there is no table of ours. The others could only say that it is missing.
    is_empty = any(each.name == "tables" for each in chosen) and not rows(alias, ANY_TABLE)
    if is_empty:
        chosen = [each for each in chosen if not each.needs_tables]
    found = [_examined(alias, subject, began, is_empty=is_empty) for subject in chosen]
    return Examination(alias, kind.label, found, time.monotonic() - began)


ANY_TABLE = f"WITH {OUR_TABLES} SELECT name FROM our_tables LIMIT 1"


def _examined(alias: str, subject: Subject, began: float, *, is_empty: bool) -> Examined:
    if time.monotonic() - began > WHOLE_SECONDS:
        found = [TOO_LATE.finding(seconds=WHOLE_SECONDS)]
    else:
        found = [finding for part in subject.parts for finding in _of_part(alias, part, is_empty=is_empty)]
    found.sort(key=lambda finding: ORDER.index(finding.level))
    return Examined(subject.name, subject.title, [replace(each, subject=subject.name) for each in found])


def _of_part(alias: str, part: Part, *, is_empty: bool) -> Iterator[Finding]:
    try:
        yield from part(alias)
    except Exception as error:  # noqa: BLE001 - none takes the other parts with it; a lost connection is raised
        if not (is_empty and isinstance(error.__cause__, UndefinedTable)):
            yield not_read(alias, error)
