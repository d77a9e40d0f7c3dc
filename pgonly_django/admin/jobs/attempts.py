"""A job's attempts with their tracebacks, for its page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

from django.conf import settings
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from pgonly_django.admin.formats import duration, short_name
from pgonly_django.models import Job, State
from pgonly_django.models.job_rows import ERRORS_KEPT
from pgonly_django.outcomes import Outcome

# A first claim reads the clock for started_at and for attempted_at, within less than this (see queue/finish.py).
SAME_CLAIM = timedelta(microseconds=100)
OUTCOMES = {outcome.value: outcome for outcome in Outcome}

# The indent of an exception group's members has bars in it.
# What a SyntaxError has failed to read stands below a line without a name: it is a message, and may be an argument.
FRAME = re.compile(r'(?P<indent>[ |+-]*)  File "(?P<path>[^"]*)", line \d+, in ')
LIBRARIES = re.compile(
    r"[/\\](?:site-packages|dist-packages|pgonly_django|lib[/\\]python3[^/\\]*)[/\\]|^<frozen |[/\\]Lib[/\\]"
)
HEADINGS = (
    "Traceback (most recent call last):",
    "Exception Group Traceback (most recent call last):",
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)


class TracebackPart(NamedTuple):
    """Lines that are shown together. `frames`: how many of libraries are folded; 0: the part is open."""

    text: str
    frames: int = 0

    @property
    def summary(self) -> str:
        return ngettext("%d frame of a library", "%d frames of libraries", self.frames) % self.frames


class _Lines(NamedTuple):
    """The lines of a frame, or lines that belong to none."""

    text: str
    path: str | None = None

    @property
    def is_folded(self) -> bool:
        return self.path is not None and LIBRARIES.search(self.path) is not None


def parts_of(traceback: str) -> list[TracebackPart]:
    """Splits the whole text: the frames of the project are open, those of libraries are folded. Where all frames are of
    libraries, none is."""
    pieces = list(_pieces(traceback))
    if all(piece.is_folded for piece in pieces if piece.path is not None):
        return [TracebackPart(traceback)]
    groups = ((folded, list(group)) for folded, group in groupby(pieces, lambda piece: piece.is_folded))
    return [
        TracebackPart("".join(piece.text for piece in group), len(group) if folded else 0)
        for folded, group in groups
    ]


def without_messages(traceback: str) -> str:
    """Returns its frames and headings alone: a message may have values of the job in it."""
    return "".join(
        piece.text
        for piece in _pieces(traceback)
        if piece.path is not None or piece.text.strip(" |+\n-") in ("", *HEADINGS)
    )


def _pieces(traceback: str) -> Iterator[_Lines]:
    lines, path, indent = "", None, ""
    for line in traceback.splitlines(keepends=True):
        frame = FRAME.match(line)
        if frame is None and path is not None and line.startswith((indent + "    ", indent + "  [Previous")):
            lines += line
            continue
        if lines:
            yield _Lines(lines, path)
        lines, path = line, None
        if frame is not None:
            path, indent = frame["path"], frame["indent"]
    if lines:
        yield _Lines(lines, path)


@dataclass(slots=True)
class RecordedAttempt:
    """One run of the job, or one decision of a person, as `errors` has it."""

    key: int  # which one of the job's
    outcome: str
    number: int | None = None
    run: int | None = None  # None: a decision; or it is not known which run it was
    worker: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cause: str = ""
    traceback: str = ""
    in_a_row: int = 1  # the number of runs that this entry stands for
    step: str = ""  # that raised
    step_started_at: datetime | None = None

    @property
    def place(self) -> str:
        """The place, as "run 7, attempt 1"."""
        run = None if self.run is None else _("run %d") % self.run
        attempt = None if self.number is None else _("attempt %d") % self.number
        return ", ".join(filter(None, (run, attempt)))

    @property
    def label(self) -> str:
        if self.outcome == State.RUNNING:
            return str(State.RUNNING.label)
        known = OUTCOMES.get(self.outcome)
        return self.outcome if known is None else str(known.label)

    @property
    def tone(self) -> str:
        known = OUTCOMES.get(self.outcome)
        return self.outcome if known is None else known.tone

    @property
    def traceback_parts(self) -> list[TracebackPart]:
        return parts_of(self.traceback)

    @property
    def shown_at(self) -> datetime | None:
        return self.finished_at or self.started_at

    @property
    def duration(self) -> str:
        if self.started_at is None:
            return ""
        return duration((self.finished_at or timezone.now()) - self.started_at)


@dataclass(frozen=True, slots=True)
class EqualAttempts:
    """Neighbours that ended alike, with the same error in the same step. The oldest is the first."""

    attempts: list[RecordedAttempt]

    @property
    def newest(self) -> RecordedAttempt:
        return self.attempts[-1]

    @property
    def earlier(self) -> list[RecordedAttempt]:
        """The others, the newest first."""
        return self.attempts[-2::-1]

    @property
    def count(self) -> int:
        return sum(each.in_a_row for each in self.attempts)

    @property
    def place(self) -> str:
        """The places, as "runs 3 to 7"; of one run as its own."""
        first, last = self.attempts[0], self.newest
        if first.run is None or last.run is None or self.count == 1:
            return last.place
        return _("runs %(first)d to %(last)d") % {"first": first.run - first.in_a_row + 1, "last": last.run}


def attempts_of(job: Job, worker: str, *, sees_data: bool) -> list[RecordedAttempt]:
    """Returns them, the oldest first: those in `errors`, then the run under way or the successful one, of this
    `worker`. Without `sees_data` no text that the task has made: see cause_of()."""
    attempts = [_recorded(key, entry, sees_data=sees_data) for key, entry in enumerate(job.errors, 1)]
    if job.state in (State.RUNNING, State.SUCCEEDED) and job.attempted_at is not None:
        ended, key = job.finished_at, len(attempts) + 1
        attempts.append(RecordedAttempt(key, job.state, job.attempt, None, worker, job.attempted_at, ended))
    _number(attempts, job)
    return attempts


def folded(attempts: list[RecordedAttempt]) -> list[EqualAttempts]:
    groups = groupby(attempts, lambda each: (each.outcome, each.cause, each.step, each.started_at is None))
    return [EqualAttempts(list(group)) for _key, group in groups]


def _number(attempts: list[RecordedAttempt], job: Job) -> None:
    """Numbers the runs: deaths, stops and snoozes use up no attempt. Where older entries may be gone, or runs were
    before the first recorded one, the last claim is the last run; the numbers are too high if workers have given claims
    back before they ran the job."""
    if len(job.errors) < ERRORS_KEPT:
        ran = [each for each in attempts if each.started_at is not None and each.outcome != Outcome.POSTPONED]
        runs = max(job.lease_epoch - sum(each.in_a_row for each in ran), 0) if _has_waited(job, ran) else 0
        for each in attempts:
            if each.started_at is not None and each.outcome != Outcome.POSTPONED:
                runs += each.in_a_row
                each.run = runs
        return
    claims = job.lease_epoch
    for each in reversed(attempts):
        if each.started_at is not None and claims > 0:
            each.run = claims
            claims -= each.in_a_row
        if each.outcome == Outcome.POSTPONED:  # of those in a row the entry does not say how many they were
            claims = 0


def _has_waited(job: Job, ran: list[RecordedAttempt]) -> bool:
    """Returns whether it ran before its first recorded run: one that waits for an event or a time leaves no entry."""
    first = ran[0].started_at if ran else None
    return first is not None and job.started_at is not None and first - job.started_at > SAME_CLAIM


def _recorded(key: int, entry: dict[str, Any], *, sees_data: bool) -> RecordedAttempt:
    outcome, traceback = entry.get("outcome", "failed"), entry.get("traceback") or ""
    return RecordedAttempt(
        key=key,
        outcome=outcome,
        number=entry.get("attempt"),
        in_a_row=entry.get("in_a_row", 1),
        worker=entry.get("worker") or entry.get("worker_id") or "",
        started_at=_time(entry.get("started_at")),
        finished_at=_time(entry.get("finished_at")),
        cause=cause_of(entry, sees_data=sees_data),
        traceback=traceback if sees_data else without_messages(traceback),
        step=entry.get("step") or "",
        step_started_at=_time(entry.get("step_started_at")),
    )


def cause_of(entry: dict[str, Any], *, sees_data: bool) -> str:
    """Returns the exception's short name and message, and the reason that was given. Without `sees_data` no text that
    the task has made, which may have its arguments in it."""
    is_told = ("message", "reason") if sees_data else ("reason",) if is_our_text(entry) else ()
    text = " ".join(entry[key] for key in is_told if entry.get(key))
    return ": ".join(filter(None, (short_name(entry.get("exception") or ""), text)))


def is_our_text(entry: dict[str, Any]) -> bool:
    """Returns whether the worker or a person gave the reason, and not the task."""
    outcome = OUTCOMES.get(entry.get("outcome", ""))
    return "started_at" not in entry or (outcome is not None and outcome.reason_is_ours)


def log_lines(job: Job) -> list[tuple[datetime | None, str]]:
    """Returns time and text, newest first."""
    return [(_time(line.get("at")), line.get("text") or "") for line in reversed(job.log)]


def _time(text: str | None) -> datetime | None:
    """Returns a time as Django reads it from the row's columns (without USE_TZ naive), so that both can be compared."""
    moment = parse_datetime(text) if text else None
    if moment is None or settings.USE_TZ:
        return moment
    return timezone.make_naive(moment, timezone.get_default_timezone())
