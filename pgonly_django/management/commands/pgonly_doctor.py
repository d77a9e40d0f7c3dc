"""manage.py pgonly_doctor: what is wrong with the database, the settings and the workers, and what to do about it."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, connections

from pgonly_django.management.selection import JobCommand, job_database, nearest
from pgonly_django.monitoring.doctor.examination import NAMES, Examination, examine
from pgonly_django.monitoring.findings import ORDER, Level, counted

EPILOG = f"""
Subjects: {", ".join(NAMES)}.

It changes nothing. Each finding has an id, which docs/how-to/doctor.md explains.

Exit codes: 0 no finding of the level --fail-on, or worse; 1 such a finding; 2 not examined: the database does not
answer, or a wrong flag.
"""
COULD_NOT_LOOK = 2
NEVER = "never"
WIDEST, NARROWEST = 110, 60
INDENT = " " * 9
STYLES = {Level.ERROR: "ERROR", Level.WARNING: "WARNING", Level.INFO: "NOTICE"}
COUNTED = {Level.ERROR: "error", Level.WARNING: "warning", Level.INFO: "note"}


class Command(JobCommand):
    help = "Find problems of the database, the settings and the workers, and say what to do about them."
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        only = "examine only this subject; separate several by commas, or repeat the flag"
        add("--only", action="append", metavar="SUBJECT", help=only)
        add("--skip", action="append", metavar="SUBJECT", help="examine all subjects except this one")
        levels, error = (Level.ERROR.value, Level.WARNING.value, NEVER), Level.ERROR.value
        fails = "the level of findings from which the exit code is 1. Default: error."
        add("--fail-on", choices=levels, default=error, help=fails)
        self.add_common(parser)

    def handle(self, *_: Any, **flags: Any) -> None:
        """Raises CommandError, with the exit code."""
        only, skip = subjects_of("--only", flags["only"]), subjects_of("--skip", flags["skip"])
        self.give_up_connecting()
        alias = job_database(flags["database"])
        vendor = connections[alias].vendor
        if vendor not in ("postgresql", "cockroachdb"):
            message = f"DATABASES[{alias!r}] is {vendor}, not PostgreSQL."
            raise CommandError(message, returncode=COULD_NOT_LOOK)
        try:
            found = examine(alias, only, skip)
        except DatabaseError as error:
            reason = f"Cannot ask the database {alias!r}: {str(error).strip()}"
            if flags["json"]:
                self.stdout.write(json.dumps({"database": alias, "error": reason, "findings": []}))
            hint = f"Try: manage.py dbshell --database {alias}"
            raise CommandError(f"{reason}\n{hint}", returncode=COULD_NOT_LOOK) from error
        if flags["json"]:
            self.stdout.write(json.dumps(found.as_dict(), default=str))
        else:
            self.say(self._lines_of(found))
        limit = flags["fail_on"]
        if limit != NEVER and found.has(Level(limit)):
            raise SystemExit(1)

    def _lines_of(self, found: Examination) -> Iterator[str]:
        """Returns a line for each subject without findings, the findings of the others, and the sum."""
        yield f"{found.server}, database {found.alias!r}"
        yield ""
        for subject, findings in found.subjects.items():
            if not findings:
                yield f"{self.style.SUCCESS('ok')}       {subject.title}"
            for finding in findings:
                mark = getattr(self.style, STYLES[finding.level])(finding.level.value.ljust(8))
                yield f"{mark} {finding.id} {subject.title}"
                yield from _wrapped(finding.fact, INDENT, INDENT)
                yield from _wrapped(finding.advice, f"{INDENT}-> ", f"{INDENT}   ")
        yield ""
        counts = [(found.count(level), level) for level in ORDER if found.count(level)]
        numbers = ", ".join(counted(number, COUNTED[level]) for number, level in counts)
        style = STYLES[counts[0][1]] if counts and counts[0][1] is not Level.INFO else "SUCCESS"
        yield getattr(self.style, style)(f"{numbers or 'Nothing found'}, after {found.seconds:.1f} s.")


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    """Wraps lines. Names, commands and SQL are not broken inside a word, so that they can be copied."""
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )  # fmt: skip


def subjects_of(flag: str, given: list[str] | None) -> list[str]:
    """Raises CommandError for a name that is not a subject."""
    names = [name.strip() for part in given or () for name in part.split(",") if name.strip()]
    for name in names:
        if name not in NAMES:
            hint = nearest(name, list(NAMES))
            raise CommandError(f"{flag} {name!r} is not a subject{hint}", returncode=COULD_NOT_LOOK)
    return names
