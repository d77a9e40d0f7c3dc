"""What commands about jobs share: the flags that choose jobs, and the name nearest to a wrong one."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections, router
from django.db.models import Q
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from pgonly_django.models import Job, State
from pgonly_django.models.job import JobQuerySet
from pgonly_django.queue.known_names import KNOWN, known_names

LENGTH = re.compile(r"(\d+)\s*(s|min|m|h|d|w)$")
UNITS = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
WHICH = "Choose jobs: ids, --queue, --task, --state, --error, --since, --until, or --all."
CONNECT_TIMEOUT_SECONDS = "10"


class JobCommand(BaseCommand):
    """A command that asks the database of jobs and ends with its exit code."""

    epilog = ""
    requires_system_checks = ()  # some of Django's ask the database, and ours import every task

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=self.epilog, **kwargs)

    def add_common(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON, for programs")
        parser.add_argument("--database", metavar="ALIAS", help="Default: where the router keeps jobs.")

    def give_up_connecting(self) -> None:
        """Makes connecting fail after a time, as a program that watches wants it. Where Django's mark of a command line
        is missing, the environment is that of the caller."""
        if getattr(self, "_called_from_command_line", False):
            os.environ.setdefault("PGCONNECT_TIMEOUT", CONNECT_TIMEOUT_SECONDS)

    def say(self, lines: Iterable[str]) -> None:
        """Writes a line. Characters that the terminal cannot show are escaped."""
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        for line in lines:
            self.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding))


def add_filters(parser: argparse.ArgumentParser, *, takes_queues: bool = False) -> None:
    add = parser.add_argument
    if takes_queues:
        text = "ids of jobs, or names of queues"
        add("ids", nargs="*", metavar="JOB|QUEUE", type=job_id_or_queue, help=text)
    else:
        add("ids", nargs="*", metavar="JOB", type=job_id, help="ids of jobs")
    add("--queue", action="append", metavar="NAME", help="only jobs of this queue (may be repeated)")
    add("--task", action="append", metavar="TASK", help="only jobs of this task: its path, or its name alone")
    states = f"only jobs in this state: {', '.join(State.values)}"
    add("--state", action="append", metavar="STATE", type=state, help=states)
    add(
        "--error", action="append", metavar="CLASS", help="only failed jobs whose last error is of this class"
    )
    when = "a time such as 2026-11-26T10:00, or an age such as 90s, 30min, 2h, 3d"
    add("--since", metavar="WHEN", type=moment, help=f"finished, or else enqueued, not before: {when}")
    add("--until", metavar="WHEN", type=moment, help="the same, not after")


def job_database(alias: str | None) -> str:
    """Returns the alias, or where the router keeps jobs. Raises CommandError where it is not in DATABASES."""
    found: str = alias or router.db_for_write(Job)
    if found not in connections:
        hint = nearest(found, list(connections))
        raise CommandError(f"--database {found!r} is not in DATABASES{hint}", returncode=2)
    return found


def length(text: str) -> timedelta | None:
    """Returns a length such as "90s", "30min", "2h", "3d"; None for other texts. Raises OverflowError."""
    found = LENGTH.match(text)
    return timedelta(**{UNITS[found[2]]: int(found[1])}) if found else None


def number(text: str) -> int:
    """The argparse type of a whole number."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):  # noqa: PLR2004 - digits
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, got {text!r}")
    return int(text)


def job_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the id of a job; pgonly_jobs list shows them"
        ) from error


def job_id_or_queue(text: str) -> UUID | str:
    with suppress(ValueError):
        return UUID(text)
    return text


def state(text: str) -> str:
    if text not in State.values:
        raise argparse.ArgumentTypeError(f"there is no state {text!r}{nearest(text, State.values)}")
    return text


def moment(text: str) -> datetime:
    """Returns a time, in the current time zone where it names none, or the time that was this long ago."""
    try:
        if age := length(text):
            return timezone.now() - age
    except OverflowError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is longer ago than any job") from error
    try:
        found = parse_datetime(text)
    except ValueError:
        found = None
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a time (2026-11-26T10:00) nor an age (2h, 3d)")
    return found if timezone.is_aware(found) else timezone.make_aware(found)


def select(alias: str, flags: dict[str, Any]) -> JobQuerySet:
    """Returns the jobs that all of the flags choose."""
    chosen = {
        "pk__in": flags["ids"], "queue__in": flags["queue"], "state__in": flags["state"],
        "at__gte": flags["since"], "at__lte": flags["until"],
    }  # fmt: skip
    jobs = Job.objects.using(alias).alias(at=Coalesce("finished_at", "enqueued_at"))
    jobs = jobs.filter(**{name: value for name, value in chosen.items() if value})
    if flags["task"]:
        named = (Q(task=name) | Q(task__endswith=f".{name}") for name in flags["task"])
        jobs = jobs.filter(reduce(or_, named))
    return jobs.failed_with(*flags["error"]) if flags["error"] else jobs


def require_some(flags: dict[str, Any]) -> None:
    """Raises CommandError where no flag chooses jobs, and --all is not given."""
    names = ("ids", "queue", "task", "state", "error", "since", "until")
    if flags["all"] and flags["ids"]:
        raise CommandError("--all and ids exclude each other.", returncode=2)
    if not flags["all"] and not any(flags[name] for name in names):
        raise CommandError(WHICH, returncode=2)


def refuse_unknown(alias: str, flags: dict[str, Any]) -> None:
    """Raises CommandError for the first id or name that no job has, with the nearest that one has."""
    found = set(Job.objects.using(alias).filter(pk__in=flags["ids"]).values_list("pk", flat=True))
    if missing := [str(each) for each in flags["ids"] if each not in found]:
        raise CommandError(
            f"There is no job {', '.join(missing[:10])}: it was pruned, or is in another database."
        )
    for flag, statement in KNOWN.items():
        for name in flags.get(flag) or ():
            known = known_names(alias, statement)
            if not any(each == name or each.endswith(f".{name}") for each in known):
                raise CommandError(f"No recent job has the {flag} {name!r}{nearest(name, known)}")


def nearest(name: str, known: Sequence[str]) -> str:
    """Returns the end of a message about a name that there is not."""
    by_last_part = {each.rpartition(".")[2]: each for each in known}
    near = difflib.get_close_matches(name, known, n=1) or [
        by_last_part[each] for each in difflib.get_close_matches(name, by_last_part, n=1)
    ]
    return f"; did you mean {near[0]!r}?" if near else "."
