"""The examination of one database, subject by subject."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import NotSupportedError, connections
from django.utils.functional import Promise
from psycopg.errors import UndefinedTable

from pgonly_django.database.server_kind import COCKROACH, ServerKind, is_cockroach
from pgonly_django.monitoring.doctor.findings import ORDER, Finding, Level, is_as_bad_as
from pgonly_django.monitoring.doctor.our_tables import are_there
from pgonly_django.monitoring.doctor.reading import not_read
from pgonly_django.monitoring.doctor.server import cockroach, server_of
from pgonly_django.monitoring.doctor.subjects import SUBJECTS, Part, Subject

# After so long no further subject begins. Each statement has a limit, too.
WHOLE_SECONDS = 20.0
TABLES = "tables"  # the subject
TOO_LATE = Finding(
    id="D005",
    level=Level.INFO,
    fact=f"This was left out: the examination had taken {WHOLE_SECONDS:g} s by then.",
    advice="Look at this subject alone: manage.py pgonly_doctor --only SUBJECT",
)


@dataclass(frozen=True, slots=True)
class Examined:
    """One subject. Without findings nothing is wrong with it."""

    name: str
    title: Promise | str
    findings: list[Finding] = field(default_factory=list)

    @property
    def level(self) -> Level | None:
        """The worst; None: nothing was found."""
        return next((level for level in ORDER if any(each.level == level for each in self.findings)), None)


@dataclass(frozen=True, slots=True)
class Report:
    alias: str
    server: str  # "PostgreSQL 17.2"
    subjects: list[Examined]
    seconds: float

    @property
    def findings(self) -> list[Finding]:
        """All of them, the worst first."""
        found = [finding for subject in self.subjects for finding in subject.findings]
        return sorted(found, key=lambda finding: ORDER.index(finding.level))

    def count(self, level: Level) -> int:
        return sum(finding.level == level for finding in self.findings)

    def has(self, limit: Level) -> bool:
        """Whether a finding is as bad as that, or worse."""
        return any(is_as_bad_as(finding.level, limit) for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {
            "database": self.alias,
            "server": self.server,
            "seconds": round(self.seconds, 3),
            "subjects": [subject.name for subject in self.subjects],
            "counts": {level.value: self.count(level) for level in ORDER},
            "findings": [finding.as_dict() for finding in self.findings],
        }


def examine(alias: str, only: Collection[str] = (), skip: Collection[str] = ()) -> Report:
    """Look at the subjects `only`, or at all but those of `skip`. Takes WHOLE_SECONDS at most, and what one
    subject takes. Changes nothing; it sends one NOTIFY, on a channel on which no worker listens.

    Raises django.db.Error where the database does not answer.
    """
    began = time.monotonic()
    try:
        connections[alias].ensure_connection()
        kind = server_of(alias)
    except NotSupportedError:  # Django takes it for an old PostgreSQL
        if not is_cockroach(alias):
            raise
        kind = ServerKind(COCKROACH)
    chosen = [each for each in SUBJECTS if (not only or each.name in only) and each.name not in skip]
    if kind.is_cockroach:  # which answers most questions of the others with an error
        refused = Examined("server", SUBJECTS[0].title, [cockroach(alias, kind)])
        return Report(alias, kind.label, [refused], time.monotonic() - began)
    # D051 to D053 say what to do where there is no table of ours. The others could only say that it is missing.
    is_empty = any(each.name == TABLES for each in chosen) and not are_there(alias)
    if is_empty:
        chosen = [each for each in chosen if not each.needs_tables]
    subjects = [_examined(alias, subject, began, is_empty=is_empty) for subject in chosen]
    return Report(alias, kind.label, subjects, time.monotonic() - began)


def _examined(alias: str, subject: Subject, began: float, *, is_empty: bool) -> Examined:
    if time.monotonic() - began > WHOLE_SECONDS:
        return Examined(subject.name, subject.title, [replace(TOO_LATE, subject=subject.name)])
    found = [finding for part in subject.parts for finding in _of_part(alias, part, is_empty=is_empty)]
    found.sort(key=lambda finding: ORDER.index(finding.level))
    return Examined(subject.name, subject.title, [replace(each, subject=subject.name) for each in found])


def _of_part(alias: str, part: Part, *, is_empty: bool) -> Iterator[Finding]:
    try:
        yield from part(alias)
    except Exception as error:  # noqa: BLE001 - none takes the other parts with it; a lost connection is raised
        if not (is_empty and isinstance(error.__cause__, UndefinedTable)):
            yield not_read(alias, error)
