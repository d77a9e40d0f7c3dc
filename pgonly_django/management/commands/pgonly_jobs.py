"""manage.py pgonly_jobs: shows jobs, and does to many, in batches, what the admin does to few."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from pgonly_django.compat import uuid7
from pgonly_django.database.connect import connect
from pgonly_django.exceptions import PgonlyError
from pgonly_django.management import job_output, selection
from pgonly_django.models import Job, Queue
from pgonly_django.models.job import (
    CANCELLABLE,
    DISCARDABLE,
    FINISHED,
    HOLDABLE,
    RESUMABLE,
    RETRYABLE,
    STARTABLE,
    JobQuerySet,
    State,
)
from pgonly_django.monitoring.findings import counted
from pgonly_django.queue.known_names import KNOWN_QUEUES, known_names
from pgonly_django.queue.prune import prune_now

EPILOG = """
With --json, list prints an array, show an object for each job, and a verb one object: "verb", "matched", "changed" and
"dry_run". redrive adds "left" and "reasons"; pause and resume of queues print "verb", "queues" and "changed".

Exit codes: 0 done, also where no job was in a state that allows it; 1 an error, or an unknown job, queue, task or
class; 2 wrong flags; 3 not confirmed: more than 10 jobs are changed after a question, or with --yes; 130 Ctrl-C.
"""
ASKS_ABOVE = 10  # this many jobs are changed without a question
BATCH = 1000
NOT_CONFIRMED = 3


class Change(NamedTuple):
    """A verb: the states that it changes, and the function that changes a batch and returns how many it changed."""

    help: str
    states: Sequence[State]
    apply: Callable[[JobQuerySet, dict[str, Any]], int]
    past: str


def _prune(jobs: JobQuerySet, _flags: dict[str, Any]) -> int:
    ids = [str(job_id) for job_id in jobs.values_list("pk", flat=True)]
    with connect(jobs.db, application_name="pgonly jobs") as connection:
        return prune_now(connection, ids).deleted


CHANGES = {
    "retry": Change(
        "make failed, cancelled, held and scheduled jobs ready now, with all their attempts",
        RETRYABLE, lambda jobs, _: jobs.retry(), "retried"
    ),
    "cancel": Change(
        "cancel waiting jobs, and ask running ones to stop",
        CANCELLABLE, lambda jobs, _: jobs.cancel(), "cancelled, or asked to stop"
    ),
    "discard": Change(
        "fail waiting jobs without a further attempt",
        DISCARDABLE, lambda jobs, flags: jobs.discard(flags["reason"]), "discarded"
    ),
    "hold": Change(
        "keep waiting jobs from running until they are resumed",
        HOLDABLE, lambda jobs, flags: jobs.hold(flags["reason"]), "held"
    ),
    "resume": Change(
        "let held jobs continue; or end the pause of queues, which are named instead of jobs",
        RESUMABLE, lambda jobs, _: jobs.resume(), "resumed"
    ),
    "run-now": Change(
        "make scheduled jobs ready before their time, with the attempts that they have left",
        STARTABLE, lambda jobs, _: jobs.run_now(), "made ready"
    ),
    "redrive": Change(  # see Command._redrive()
        "make failed jobs run again, spread over time, with other arguments",
        (State.FAILED,), lambda _jobs, _flags: 0, "redriven"
    ),
    "prune": Change(
        "delete finished jobs now, whatever their retention", FINISHED, _prune, "deleted"
    ),
}  # fmt: skip


class Command(selection.JobCommand):
    help = "List, show and change jobs."
    epilog = EPILOG

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
        texts = {"list": "list the newest jobs", "show": "show everything about one job"}
        for verb, text in (texts | {verb: change.help for verb, change in CHANGES.items()}).items():
            added = verbs.add_parser(verb, help=text, description=text.capitalize() + ".")
            _add_flags(verb, added)
            self.add_common(added)
        paused = verbs.add_parser("pause", help="let no job of these queues start")
        paused.add_argument("queues", nargs="+", metavar="QUEUE")
        self.add_common(paused)

    def handle(self, *_: Any, verb: str, **flags: Any) -> None:
        """Raises CommandError. A closed pipe is not an error."""
        alias = selection.job_database(flags["database"])
        try:
            self._do(verb, alias, flags)
            self.stdout.flush()
        except (DatabaseError, PgonlyError, ImportError, ImproperlyConfigured) as error:
            raise CommandError(str(error).strip()) from error
        except KeyboardInterrupt as error:
            raise CommandError("Interrupted; changes that were made stay.", returncode=130) from error
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _do(self, verb: str, alias: str, flags: dict[str, Any]) -> None:
        if verb == "list":
            self._list(alias, flags)
        elif verb == "show":
            self._show(alias, flags)
        elif verb == "pause" or (verb == "resume" and any(isinstance(each, str) for each in flags["ids"])):
            self._switch_queues(verb, alias, flags)
        else:
            self._change(verb, alias, flags)

    # Reading.

    def _list(self, alias: str, flags: dict[str, Any]) -> None:
        jobs = job_output.with_last_error(selection.select(alias, flags))
        found = jobs.iterator() if flags["limit"] == 0 else jobs[: flags["limit"]]
        if flags["json"]:
            self.say(job_output.json_array(job_output.listed(found)))
            return
        lines = map(job_output.line, found)
        first = next(lines, None)
        if first is None:
            selection.refuse_unknown(alias, flags)
            self.say(["No jobs."])
        else:
            self.say([job_output.HEADS, first])
            self.say(lines)
            if flags["limit"] and jobs[flags["limit"] :].exists():
                self.stderr.write(self.style.WARNING("There are more jobs: --limit 0 lists all."))

    def _show(self, alias: str, flags: dict[str, Any]) -> None:
        selection.refuse_unknown(alias, flags)
        jobs = Job.objects.using(alias).filter(pk__in=flags["ids"])
        for job in jobs.annotate(**job_output.LAST, **job_output.WAIT):
            found = job_output.details(job)
            self.say([job_output.as_json(found)] if flags["json"] else job_output.lines_of(found))

    # Changing.

    def _change(self, verb: str, alias: str, flags: dict[str, Any]) -> None:
        selection.require_some(flags)
        jobs = selection.select(alias, flags)
        matched = jobs.filter(state__in=CHANGES[verb].states).count()
        if not matched:
            selection.refuse_unknown(alias, flags)
        answer = {"verb": verb, "matched": matched, "changed": 0, "dry_run": flags["dry_run"]}
        if not flags["dry_run"]:
            confirm(verb, matched, flags)
            answer |= (
                self._redrive(jobs, flags)
                if verb == "redrive"
                else {"changed": change(alias, jobs, verb, flags)}
            )
        if flags["json"]:
            self.say([job_output.as_json(answer)])
        elif flags["dry_run"]:
            self.say([f"{counted(matched, 'job')} would be {CHANGES[verb].past}."])
        else:
            self.say(_sentences(answer, CHANGES[verb].past))

    def _redrive(self, jobs: Any, flags: dict[str, Any]) -> dict[str, Any]:
        from pgonly_django.tasks.redrive import redrive

        arguments = dict(flags["argument"] or ())
        done = redrive(jobs, per_minute=flags["per_minute"], arguments=arguments)
        return {"changed": done.jobs, "left": done.left, "reasons": done.reasons}

    def _switch_queues(self, verb: str, alias: str, flags: dict[str, Any]) -> None:
        names = flags["queues"] if verb == "pause" else [str(each) for each in flags["ids"]]
        queues = Queue.objects.using(alias)
        known = {*queues.values_list("name", flat=True), *known_names(alias, KNOWN_QUEUES)}
        for name in set(names) - known:
            hint = selection.nearest(name, sorted(known))
            self.stderr.write(self.style.WARNING(f"No recent job is in the queue {name!r}{hint}"))
        rows = queues.named(*names)
        changed = rows.pause() if verb == "pause" else rows.resume()
        answer = {"verb": verb, "queues": sorted(set(names)), "changed": changed}
        past = "paused" if verb == "pause" else "resumed"
        self.say(
            [job_output.as_json(answer)] if flags["json"] else [f"{changed} of {len(set(names))} {past}."]
        )


def _add_flags(verb: str, parser: argparse.ArgumentParser) -> None:
    if verb == "show":
        parser.add_argument("ids", nargs="+", metavar="JOB", type=selection.job_id)
        parser.set_defaults(queue=None, task=None, error=None)
    else:
        selection.add_filters(parser, takes_queues=verb == "resume")
    if verb == "list":
        most = "the maximum number of jobs; 0: all. Default: 50."
        parser.add_argument("--limit", type=selection.number, default=50, help=most)
    elif verb != "show":
        parser.add_argument("--all", action="store_true", help="all jobs, where no other flag chooses some")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--dry-run", action="store_true", help="only count")
    if verb in ("discard", "hold"):
        default = f"{'Discarded' if verb == 'discard' else 'Held'} by pgonly_jobs."
        parser.add_argument("--reason", default=default, help="recorded among the errors of the job")
    if verb == "redrive":
        rate = "the number of jobs that start per minute. Default: all start now."
        parser.add_argument("--per-minute", type=float, metavar="N", help=rate)
        hint = "a new value of a parameter, as JSON or text (may be repeated)"
        parser.add_argument("--argument", action="append", type=argument, metavar="NAME=VALUE", help=hint)


def _sentences(answer: dict[str, Any], past: str) -> Iterable[str]:
    yield f"{counted(answer['changed'], 'job')} {'was' if answer['changed'] == 1 else 'were'} {past}."
    if answer.get("left"):
        yield f"{answer['left']:,} were left alone:"
        yield from (f"{job_id}  {reason}" for job_id, reason in answer["reasons"].items())


def confirm(verb: str, count: int, flags: dict[str, Any]) -> None:
    """Raises CommandError where the person does not want it, or cannot be asked."""
    if count <= ASKS_ABOVE or flags["yes"]:
        return
    what = f"{verb} {counted(count, 'job')}"
    if not sys.stdin or not sys.stdin.isatty():
        raise CommandError(
            f"Not done: {what} needs --yes where there is no terminal to ask at.", returncode=NOT_CONFIRMED
        )
    sys.stderr.write(f"{what.capitalize()}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("Not done.", returncode=NOT_CONFIRMED)


def change(alias: str, jobs: JobQuerySet, verb: str, flags: dict[str, Any]) -> int:
    """Applies it to `jobs`, those that exist now. Returns how many changed."""
    changed, what = 0, CHANGES[verb]
    for ids in _batches(jobs.filter(state__in=what.states)):
        try:
            changed += what.apply(Job.objects.using(alias).filter(pk__in=ids, state__in=what.states), flags)
        except KeyboardInterrupt as error:
            done = f"Interrupted: {counted(changed, 'job')} {what.past} before."
            raise CommandError(done, returncode=130) from error
    return changed


def _batches(jobs: JobQuerySet) -> Iterator[list[UUID]]:
    """Yields batches by key: a job that comes back into these states is not met again, nor is a newer one. The newest
    come first, so jobs that are gathered before the one that gathers, which would take them along uncounted."""
    jobs, last = jobs.filter(pk__lte=uuid7()).order_by("-pk"), None
    while True:
        page = jobs if last is None else jobs.filter(pk__lt=last)
        ids = list(page.values_list("pk", flat=True)[:BATCH])
        if ids:
            yield ids
        if len(ids) < BATCH:
            return
        last = ids[-1]


def argument(text: str) -> tuple[str, Any]:
    """Parses name=value, of --argument. The value is JSON, or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
