"""manage.py pgonly_doctor: what is wrong with the database, the settings and the workers, and what to do about it."""

from __future__ import annotations

import json
import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections

from pgonly_django.management.databases import job_database
from pgonly_django.management.doctor.report import lines_of
from pgonly_django.management.jobs.selection import nearest
from pgonly_django.monitoring.doctor.examination import Report, examine
from pgonly_django.monitoring.doctor.findings import Level
from pgonly_django.monitoring.doctor.subjects import NAMES

EPILOG = f"""
Subjects: {", ".join(NAMES)}.

It changes nothing. Each finding has an id, which docs/how-to/doctor.md explains.

Exit codes: 0 nothing of the level --fail-on, or worse; 1 there is such a finding; 2 it could not look: the database
does not answer, or a wrong flag.
"""
CONNECT_TIMEOUT_SECONDS = "10"
COULD_NOT_LOOK = 2
NEVER = "never"


class Command(BaseCommand):
    help = "Say what is wrong with the database, the settings and the workers, and what to do about it."
    requires_system_checks = ()  # some of Django's ask the database, and what is wrong is told here

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EPILOG, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add(
            "--only",
            action="append",
            metavar="SUBJECT",
            help="only this one; several with commas or repeated",
        )
        add("--skip", action="append", metavar="SUBJECT", help="all but this one")
        levels = (Level.ERROR.value, Level.WARNING.value, NEVER)
        add(
            "--fail-on",
            choices=levels,
            default=Level.ERROR.value,
            help="exit with 1 from here on. Default: error.",
        )
        add("--json", action="store_true", help="for programs")
        add("--database", metavar="ALIAS", help="Default: where the router keeps jobs.")

    def handle(self, *_: Any, **flags: Any) -> None:
        """Raises CommandError, with the exit code."""
        only, skip = subjects_of("--only", flags["only"]), subjects_of("--skip", flags["skip"])
        if getattr(
            self, "_called_from_command_line", False
        ):  # Django's mark: else the variable is the caller's
            os.environ.setdefault("PGCONNECT_TIMEOUT", CONNECT_TIMEOUT_SECONDS)
        alias = job_database(flags["database"])
        if connections[alias].vendor not in ("postgresql", "cockroachdb"):
            vendor = connections[alias].vendor
            raise CommandError(
                f"DATABASES[{alias!r}] is {vendor}, and no PostgreSQL.", returncode=COULD_NOT_LOOK
            )
        try:
            report = examine(alias, only, skip)
        except DatabaseError as error:
            raise self._could_not_look(alias, error, as_json=flags["json"]) from error
        self._show(report, as_json=flags["json"])
        limit = flags["fail_on"]
        if limit != NEVER and report.has(Level(limit)):
            raise SystemExit(1)

    def _could_not_look(self, alias: str, error: Exception, *, as_json: bool) -> CommandError:
        reason = f"Cannot ask the database {alias!r}: {str(error).strip()}"
        if as_json:
            self.stdout.write(json.dumps({"database": alias, "error": reason, "findings": []}))
        hint = f"Try: manage.py dbshell --database {alias}"
        return CommandError(f"{reason}\n{hint}", returncode=COULD_NOT_LOOK)

    def _show(self, report: Report, *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(report.as_dict(), default=str))
            return
        for line in lines_of(report, self.style):
            self.stdout.write(line)


def subjects_of(flag: str, given: list[str] | None) -> list[str]:
    """Raises CommandError for a name that is no subject."""
    names = [name.strip() for part in given or () for name in part.split(",") if name.strip()]
    for name in names:
        if name not in NAMES:
            hint = nearest(name, list(NAMES))
            raise CommandError(f"{flag} {name!r} is no subject{hint}", returncode=COULD_NOT_LOOK)
    return names
