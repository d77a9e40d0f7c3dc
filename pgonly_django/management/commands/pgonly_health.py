"""manage.py pgonly_health: whether workers live, and jobs do not wait or fail, for people and for monitoring."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, ProgrammingError, connections, transaction

from pgonly_django.management.databases import job_database
from pgonly_django.management.health.checks import Check, Limits, examine
from pgonly_django.management.jobs.selection import AGE, UNITS
from pgonly_django.queue.health import unknown_queues

EPILOG = """
Without limits it judges the workers alone, and shows the rest. Times are seconds, or such as 90s, 30min, 2h, 3d.

Exit codes: 0 healthy; 1 not healthy: a limit does not hold; 2 unknown: the database does not answer, or a wrong flag.
"""
STATEMENT_TIMEOUT = "10s"
CONNECT_TIMEOUT_SECONDS = "10"
UNKNOWN = 2
UNKNOWN_QUEUE = "--queue {}: no worker, no job and no limit names it. Is it written so?"


class Command(BaseCommand):
    help = "Say whether workers live, and how long jobs wait and how many fail."
    requires_system_checks = ()  # some of Django's ask the database, and ours import every task

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EPILOG, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--queue", action="append", metavar="NAME", help="only of this queue (may be repeated)")
        add("--min-workers", type=number, default=1, metavar="N", help="so many live. Default: 1.")
        age = "a worker's heartbeat may be so old. Default: as the admin has it."
        add("--max-worker-age", type=seconds, metavar="TIME", help=age)
        add("--max-oldest-ready", type=seconds, metavar="TIME", help="the oldest ready job may wait so long")
        add(
            "--max-latency",
            type=seconds,
            metavar="TIME",
            help="95 of 100 jobs waited no longer before they ran",
        )
        add("--max-failed", type=number, metavar="N", help="so many jobs may have failed")
        add(
            "--within",
            type=seconds,
            default=Limits.within,
            metavar="TIME",
            help="how far back the last two look. Default: 15min.",
        )
        add("--json", action="store_true", help="for programs")
        add("--database", metavar="ALIAS", help="Default: where the router keeps jobs.")

    def handle(self, *_: Any, **flags: Any) -> None:
        """Raises CommandError, with the exit code."""
        names = ("min_workers", "max_worker_age", "max_oldest_ready", "max_latency", "max_failed", "within")
        limits = Limits(**{name: flags[name] for name in names})
        if getattr(
            self, "_called_from_command_line", False
        ):  # Django's mark: else the variable is the caller's
            os.environ.setdefault("PGCONNECT_TIMEOUT", CONNECT_TIMEOUT_SECONDS)
        alias = job_database(flags["database"])
        try:
            checks, unknown = _examine(alias, limits, flags["queue"] or ())
        except DatabaseError as error:
            reason = _reason(alias, error)
            if flags["json"]:
                self.stdout.write(json.dumps({"healthy": None, "error": reason, "checks": []}))
            raise CommandError(reason, returncode=UNKNOWN) from error
        failed = [each.name for each in checks if not each.ok]
        for name in unknown:
            self.stderr.write(self.style.WARNING(UNKNOWN_QUEUE.format(name)))
        self._show(checks, as_json=flags["json"])
        if failed:
            raise CommandError(f"Not healthy: {', '.join(failed)}.")

    def _show(self, checks: list[Check], *, as_json: bool) -> None:
        if as_json:
            is_healthy = all(each.ok for each in checks)
            facts = {"healthy": is_healthy, "checks": [each.as_dict() for each in checks]}
            self.stdout.write(json.dumps(facts))
            return
        for each in checks:
            verdict = self.style.SUCCESS("ok  ") if each.ok else self.style.ERROR("FAIL")
            self.stdout.write(f"{verdict}  {each.name.replace('_', ' '):<13} {each.text}")


def seconds(text: str) -> timedelta:
    """A type of flags."""
    age = AGE.match(text)
    try:
        found = timedelta(**{UNITS[age[2]]: int(age[1])}) if age else timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        found = None
    if found is None or found < timedelta(0):
        raise argparse.ArgumentTypeError(f"must be a time such as 90, 90s, 30min or 2h, got {text!r}")
    return found


def number(text: str) -> int:
    """A type of flags."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):  # noqa: PLR2004 - digits
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, got {text!r}")
    return int(text)


def _examine(alias: str, limits: Limits, queues: Sequence[str]) -> tuple[list[Check], list[str]]:
    """And those of `queues` that nothing names. On a database that is too busy to answer it gives up; in a transaction
    of the caller's it changes no setting."""
    connection = connections[alias]
    if connection.vendor != "postgresql":
        raise CommandError(f"DATABASES[{alias!r}] is {connection.vendor}: no jobs there.", returncode=UNKNOWN)
    if connection.in_atomic_block:
        return examine(alias, limits, queues), unknown_queues(alias, queues)
    with transaction.atomic(using=alias), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [STATEMENT_TIMEOUT])
        return examine(alias, limits, queues), unknown_queues(alias, queues)


def _reason(alias: str, error: DatabaseError) -> str:
    reason = f"Cannot ask PostgreSQL ({alias}): {str(error).strip()}"
    if isinstance(error, ProgrammingError):
        reason += f"\nAre the tables there? Run: python manage.py migrate --database {alias}"
    return reason
