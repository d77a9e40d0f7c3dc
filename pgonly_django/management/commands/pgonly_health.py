"""manage.py pgonly_health: checks that workers are alive and jobs neither wait nor fail."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, ProgrammingError, connections

from pgonly_django.database.on_django import time_limit
from pgonly_django.management.selection import JobCommand, job_database, length, number
from pgonly_django.monitoring.conditions import NO_WORKER
from pgonly_django.monitoring.findings import counted
from pgonly_django.monitoring.waiting import forgotten_waits
from pgonly_django.monitoring.workers import worker_totals
from pgonly_django.queue import health
from pgonly_django.wording import duration

EPILOG = """
Without limits it checks the workers alone, and shows the rest. Times are seconds, or such as 90s, 30min, 2h, 3d.

Exit codes: 0 healthy; 1 not healthy: a limit is exceeded; 2 unknown: the database does not answer, or a wrong flag.
"""
STATEMENT_TIMEOUT = timedelta(seconds=10)
UNKNOWN = 2
UNKNOWN_QUEUE = "--queue {}: no worker, no job and no limit names it. Check its spelling."


class Command(JobCommand):
    help = "Check that workers are alive, how long jobs wait and how many fail."
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--queue", action="append", metavar="NAME", help="only jobs of this queue (may be repeated)")
        least = int(NO_WORKER.limit)
        workers = "the least number of live workers. Default: 1."
        add("--min-workers", type=number, default=least, metavar="N", help=workers)
        age = "the age of a heartbeat up to which a worker counts as live. Default: as in the admin."
        add("--max-worker-age", type=seconds, metavar="TIME", help=age)
        oldest = "the longest that the oldest ready job may wait"
        add("--max-oldest-ready", type=seconds, metavar="TIME", help=oldest)
        latency = "the longest that 95 of 100 jobs may have waited before they ran"
        add("--max-latency", type=seconds, metavar="TIME", help=latency)
        event = "the longest that a job may wait for an event without a deadline"
        add("--max-event-wait", type=seconds, metavar="TIME", help=event)
        add("--max-failed", type=number, metavar="N", help="the maximum number of jobs that may have failed")
        within = "the period that --max-latency and --max-failed cover. Default: 15min."
        quarter = timedelta(minutes=15)
        add("--within", type=seconds, default=quarter, metavar="TIME", help=within)
        self.add_common(parser)

    def handle(self, *_: Any, **flags: Any) -> None:
        """Raises CommandError, with the exit code."""
        self.give_up_connecting()
        alias = job_database(flags["database"])
        try:
            checks, unknown = _examine(alias, flags, flags["queue"] or ())
        except DatabaseError as error:
            reason = _reason(alias, error)
            if flags["json"]:
                self.stdout.write(json.dumps({"healthy": None, "error": reason, "checks": []}))
            raise CommandError(reason, returncode=UNKNOWN) from error
        failed = [each.name for each in checks if not each.ok]
        for name in unknown:
            self.stderr.write(self.style.WARNING(UNKNOWN_QUEUE.format(name)))
        if flags["json"]:
            facts = {"healthy": not failed, "checks": [each.as_dict() for each in checks]}
            self.stdout.write(json.dumps(facts))
        else:
            for each in checks:
                verdict = self.style.SUCCESS("ok  ") if each.ok else self.style.ERROR("FAIL")
                self.stdout.write(f"{verdict}  {each.name.replace('_', ' '):<13} {each.text}")
        if failed:
            raise CommandError(f"Not healthy: {', '.join(failed)}.")


def seconds(text: str) -> timedelta:
    """The argparse type of a number of seconds."""
    try:
        found = length(text)
        found = timedelta(seconds=float(text)) if found is None else found
    except (ValueError, OverflowError):
        found = None
    if found is None or found < timedelta(0):
        raise argparse.ArgumentTypeError(f"must be a time such as 90, 90s, 30min or 2h, got {text!r}")
    return found


class Check(NamedTuple):
    name: str
    ok: bool
    text: str  # for people
    value: float | None  # seconds, or a number; what the limit is for
    limit: float | None
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        names = ("name", "ok", "value", "limit")
        return {**{name: getattr(self, name) for name in names}, **self.facts}


def _examine(alias: str, flags: dict[str, Any], queues: Sequence[str]) -> tuple[list[Check], list[str]]:
    """Returns the checks, and those of `queues` that nothing names. It gives up on a database that is too busy."""
    connection = connections[alias]
    if connection.vendor != "postgresql":
        raise CommandError(f"DATABASES[{alias!r}] is {connection.vendor}: no jobs there.", returncode=UNKNOWN)
    with time_limit(alias, STATEMENT_TIMEOUT):
        checks = [
            _of_workers(alias, flags, queues),
            *_of_waits(alias, flags, queues),
            _of_events(alias, flags, queues),
            _of_failures(alias, flags, queues),
        ]
        return checks, health.unknown_queues(alias, queues)


def _of_workers(alias: str, flags: dict[str, Any], queues: Sequence[str]) -> Check:
    found, least = worker_totals(alias, queues, flags["max_worker_age"]), flags["min_workers"]
    age, is_ok = found.newest_heartbeat_seconds, found.live >= least
    heartbeat = "" if age is None else f", the last heartbeat {duration(age)} ago"
    silent = f"; {found.silent} silent" if found.silent else ""
    text = f"{found.live} live{heartbeat}{silent}{'' if is_ok else f' (at least {least})'}"
    facts = {"silent": found.silent, "newest_heartbeat_seconds": age}
    return Check("workers", is_ok, text, found.live, least, facts)


def _of_waits(alias: str, flags: dict[str, Any], queues: Sequence[str]) -> list[Check]:
    """Returns the figures of the job that waits longest, and of those whose run began."""
    oldest = health.oldest_waiting(alias, queues)
    waited, job = (oldest.seconds, oldest.job_id) if oldest else (0.0, None)
    text = f"{duration(waited)} in the queue {oldest.queue}" if oldest else "no job waits"
    facts: dict[str, Any] = {"queue": oldest.queue if oldest else None, "job": job and str(job)}
    checks = [_at_most("oldest_ready", waited, flags["max_oldest_ready"], text, facts)]
    found = health.latency(alias, flags["within"], queues, before=job)
    within, p95 = duration(flags["within"]), None
    text, facts = f"no run began within {within}", {"jobs": 0}
    if found is not None:
        p50, p95, longest = found[1:]
        times = f"p95 {duration(p95)}, p50 {duration(p50)}, longest {duration(longest)}"
        text, facts = f"{times}, of {counted(found.jobs, 'run')} within {within}", found._asdict()
    return [*checks, _at_most("latency", p95, flags["max_latency"], text, facts)]


def _of_events(alias: str, flags: dict[str, Any], queues: Sequence[str]) -> Check:
    """Returns the figures of the job that waits longest for an event, of those without a deadline."""
    waited, text, facts = 0.0, "no job waits without a deadline", dict.fromkeys(("key", "job"))
    for wait in forgotten_waits(alias, 0, queues)[:1]:
        waited = (wait.now - wait.began_at).total_seconds()
        text, facts = f"{duration(waited)} for {wait.key}", {"key": wait.key, "job": str(wait.job_id)}
    return _at_most("event_wait", waited, flags["max_event_wait"], text, facts)


def _of_failures(alias: str, flags: dict[str, Any], queues: Sequence[str]) -> Check:
    within = flags["within"]
    failed = health.failures(alias, within, queues)
    facts = {"within_seconds": within.total_seconds()}
    return _at_most("failures", failed, flags["max_failed"], f"{failed} within {duration(within)}", facts)


def _at_most(
    name: str, value: float | None, limit: timedelta | int | None, text: str, facts: dict[str, Any]
) -> Check:
    """Judges a figure by its limit. Without a limit it is shown, and not judged."""
    most = limit.total_seconds() if isinstance(limit, timedelta) else limit
    is_ok = most is None or value is None or value <= most
    wanted = "" if is_ok else f" (at most {duration(limit) if isinstance(limit, timedelta) else limit})"
    return Check(name, is_ok, text + wanted, value, most, facts)


def _reason(alias: str, error: DatabaseError) -> str:
    reason = f"Cannot ask PostgreSQL ({alias}): {str(error).strip()}"
    if isinstance(error, ProgrammingError):
        reason += f"\nAre the tables there? Run: python manage.py migrate --database {alias}"
    return reason
