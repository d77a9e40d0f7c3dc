"""The examination of one database, subject by subject. A new condition is a row of a table and the part that finds it,
named in SUBJECTS; its id goes into docs/how-to/doctor.md."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from pgonly_django.monitoring.doctor import jobs, server, tables
from pgonly_django.monitoring.doctor.reading import Part, not_read
from pgonly_django.monitoring.findings import ORDER, Condition, Finding, Level

# After so long no further subject begins. Each statement has a limit, too.
WHOLE_SECONDS = 20.0
TOO_LATE = Condition(
    "D005", Level.INFO, "This was left out: the examination had taken {seconds:g} s by then.",
    "Look at this subject alone: manage.py pgonly_doctor --only SUBJECT")  # fmt: skip


class Subject(NamedTuple):
    """A subject of the examination. `parts` are called with an alias, one after the other. One that fails does not stop
    the others. `needs_tables`: they read tables of ours."""

    name: str
    title: Promise | str
    parts: tuple[Part, ...]
    needs_tables: bool = False


SUBJECTS = (
    Subject("server", _("Server"), (server.kind,)),
    Subject("tables", _("Tables"), (tables.ours,)),
    Subject("indexes", _("Indexes"), (tables.indexes,), needs_tables=True),
    Subject("queues", _("Queues"), (jobs.late, jobs.forgotten), needs_tables=True),
    Subject("workers", _("Workers"), (jobs.silent,), needs_tables=True),
    Subject("listen", _("LISTEN and NOTIFY"), (jobs.notify,)),
    Subject("vacuum", _("Transactions"), (jobs.held_snapshots, jobs.hidden_sessions)),
    Subject("settings", _("Settings of PostgreSQL"), (server.settings,)),
)
NAMES = tuple(subject.name for subject in SUBJECTS)


@dataclass(frozen=True, slots=True)
class Examination:
    alias: str
    server: str  # "PostgreSQL 17.2"
    subjects: dict[Subject, list[Finding]]  # without findings nothing is wrong with it
    seconds: float

    @property
    def findings(self) -> list[Finding]:
        """Returns all findings, the worst first."""
        found = [finding for findings in self.subjects.values() for finding in findings]
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
    if any(each.name == "tables" for each in chosen) and not tables.are_there(alias):
        chosen = [each for each in chosen if not each.needs_tables]
    found = {subject: _examined(alias, subject, began) for subject in chosen}
    return Examination(alias, kind.label, found, time.monotonic() - began)


def _examined(alias: str, subject: Subject, began: float) -> list[Finding]:
    if time.monotonic() - began > WHOLE_SECONDS:
        found = [TOO_LATE.finding(seconds=WHOLE_SECONDS)]
    else:
        found = [finding for part in subject.parts for finding in _of_part(alias, part)]
    found.sort(key=lambda finding: ORDER.index(finding.level))
    return [replace(each, subject=subject.name) for each in found]


def _of_part(alias: str, part: Part) -> Iterator[Finding]:
    try:
        yield from part(alias)
    except Exception as error:  # noqa: BLE001 - none takes the other parts with it; a lost connection is raised
        yield not_read(alias, error)
