"""One look at the jobs of a page: their rows, what keeps them waiting, and what they have emitted. It is worded for the
users of a site, without the name of a task, an exception or a traceback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from pgonly_django.compat import InvalidTaskBackend, task_backends
from pgonly_django.conf import settings
from pgonly_django.models import Job, Queue, State
from pgonly_django.models.job import CANCELLABLE, ClockTimestamp
from pgonly_django.monitoring.progress import JobProgress, job_progress, progress_for_page
from pgonly_django.monitoring.waiting import waits_of
from pgonly_django.monitoring.workers import Served, served_queues, silences
from pgonly_django.progress.tokens import Grant
from pgonly_django.queue.output import Cursor, Piece, PieceWanted, read_pieces

MESSAGE_LENGTH = 300
COLUMNS = (
    "id", "backend", "queue", "state", "run_at", "attempt", "progress", "attempted_at", "reported_at",
    "worker_id", "lease_expires_at", "cancel_requested_at",
)  # fmt: skip
SLOW_PER_MINUTE = 10  # below that with one digit after the point
SECONDS_TILL, MINUTES_TILL = 60, 120  # up to here the time that is left is said in seconds, in minutes
# A page gets what is new of its output in answers of about this many characters, of all its jobs together.
OF_AN_EVENT, OF_AN_ANSWER, WHOLE = 32_768, 262_144, 2**31 - 1
# A statement reads this many pieces, so that many readers of long outputs need no more memory than a few.
PIECES_AT_ONCE = 20


class Wanted(NamedTuple):
    grant: Grant
    cursor: Cursor = Cursor()
    size: int = WHOLE

    @property
    def question(self) -> PieceWanted:
        return PieceWanted(self.grant.job_id, self.cursor, self.size)


class Seen(NamedTuple):
    """What one look has read of a database: jobs, their output, what keeps them waiting, and the silent ones."""

    jobs: dict[str, Any]  # by id; each with `now`: the clock of this machine may differ from that of the rows
    pieces: dict[PieceWanted, Piece]
    served: Served
    paused: set[str]  # names of queues
    waits: dict[object, Any]  # what scheduled jobs wait for, by their ids
    parts: dict[str, Any]  # how far the batches are that they wait for, by the ids of these
    silent: Mapping[object, timedelta]  # for how long the workers of jobs have been, by the ids of these


def database_of(backend: str) -> str | None:
    """Returns None when no backend of this name keeps its jobs in rows."""
    try:
        return getattr(task_backends[backend], "database", None)
    except InvalidTaskBackend:
        return None


def look(wanted: Sequence[Wanted]) -> list[dict[str, Any]]:
    """Returns what is shown of each job, in the same order. For the statements see read()."""
    seen = {alias: read(alias, part) for alias, part in by_database(wanted).items()}
    return in_words(wanted, seen)


def by_database(wanted: Sequence[Wanted]) -> dict[str, list[Wanted]]:
    parts: dict[str, list[Wanted]] = {}
    for each in wanted:
        if (alias := database_of(each.grant.backend)) is not None:
            parts.setdefault(alias, []).append(each)
    return parts


def read(alias: str, wanted: Sequence[Wanted]) -> Seen:
    """Reads with one statement for all jobs, up to five for what keeps them waiting, and one for each PIECES_AT_ONCE
    outputs. The outputs come last: of a job that has ended all is read. Index: primary keys."""
    rows = Job.objects.using(alias).only(*COLUMNS).annotate(now=ClockTimestamp())
    found = rows.in_bulk({UUID(each.grant.job_id) for each in wanted})
    jobs = {str(job_id): job for job_id, job in found.items()}
    questions = list({each.question for each in wanted if each.grant.shows_output and _row(jobs, each)})
    pieces: dict[PieceWanted, Piece] = {}
    for at in range(0, len(questions), PIECES_AT_ONCE):
        pieces |= read_pieces(alias, questions[at : at + PIECES_AT_ONCE])
    return Seen(jobs, pieces, *_surroundings(alias, list(jobs.values())))


def _row(jobs: dict[str, Any], wanted: Wanted) -> Any:
    """Returns None where the job is of another backend: the token says which one may be seen."""
    job = jobs.get(wanted.grant.job_id)
    return job if job is not None and job.backend == wanted.grant.backend else None


def in_words(wanted: Sequence[Wanted], seen: Mapping[str, Seen]) -> list[dict[str, Any]]:
    """Returns the words in the language and the time zone of the caller, without a statement."""
    return [_shown(each, seen.get(database_of(each.grant.backend) or "")) for each in wanted]


def _surroundings(alias: str, jobs: Sequence[Any]) -> tuple[Any, ...]:
    """Returns the last fields of Seen."""
    served, paused, waits, silent = Served(all=True), set(), {}, silences(alias, jobs)
    if waiting := {
        job.queue for job in jobs if job.state in (State.READY, State.SCHEDULED) or job.pk in silent
    }:
        served = served_queues(alias)
        queues = Queue.objects.using(alias).filter(name__in=waiting, paused_at__isnull=False)
        paused = set(queues.values_list("name", flat=True))
    if scheduled := [job.pk for job in jobs if job.state == State.SCHEDULED]:
        waits = {wait.job_id: wait for wait in waits_of(alias, scheduled)}
    parts = progress_for_page(alias, {wait.batch_id for wait in waits.values() if wait.batch_id})
    return served, paused, waits, parts, silent


def _shown(wanted: Wanted, seen: Seen | None) -> dict[str, Any]:
    job = _row(seen.jobs, wanted) if seen else None
    if seen is None or job is None:
        return {"state": "gone", "label": _("No longer here"), "is_over": True, "may_cancel": False}
    progress = job_progress(job, job.now)
    reported = job.progress or {}
    may_cancel = wanted.grant.may_cancel and job.state in CANCELLABLE
    wait = seen.waits.get(job.pk)
    question = wait.question if wait and not wait.is_answered else ""
    parts = seen.parts.get(wait.batch_id) if wait else None
    shown: dict[str, Any] = {
        "state": job.state,
        "label": _label(job, seen, progress),
        "percent": 100 if job.state == State.SUCCEEDED else (parts or progress).percent,
        "pace": _reached(progress) if job.pk in seen.silent else _pace(progress),
        "message": str(question or (parts and parts.words) or reported.get("message") or "")[:MESSAGE_LENGTH],
        "is_over": job.is_finished,
        "may_cancel": may_cancel and job.cancel_requested_at is None,
    }
    if (piece := seen.pieces.get(wanted.question)) is not None and wanted.grant.shows_output:
        output = piece.output
        shown["output"] = {"text": output.text, "keep": output.keep, "offset": str(output.offset)}
        if piece.has_more:  # progress.js asks for it at once, and asks no more where all is over
            shown |= {"is_over": False, "output": {**shown["output"], "next": str(piece.next)}}
    return shown


def cancel(grant: Grant) -> bool:
    alias = database_of(grant.backend)
    rows = Job.objects.using(alias).filter(pk=grant.job_id, backend=grant.backend)
    return alias is not None and bool(rows.cancel())


def _label(job: Any, seen: Seen, progress: JobProgress) -> str:
    match job.state:
        case State.READY:
            return _waiting(job, seen)
        case State.SCHEDULED:
            return _scheduled(job, seen)
        case State.RUNNING:
            return _running(job, seen, progress)
        case State.HELD:
            return _("On hold")
        case State.SUCCEEDED:
            return _("Done")
        case State.CANCELLED:
            return _("Cancelled")
    return _("Failed")


def _waiting(job: Any, seen: Seen) -> str:
    if not seen.served.has(job.queue):
        return _("Waiting: no live worker serves %(queue)s") % {"queue": job.queue}
    if job.queue in seen.paused:
        return _("Waiting: %(queue)s is paused") % {"queue": job.queue}
    return _("Waiting for a worker")


def _scheduled(job: Any, seen: Seen) -> str:
    wait = seen.waits.get(job.pk)
    if job.run_at is None or job.run_at <= job.now or (wait and wait.is_answered):
        return _waiting(job, seen)
    if wait and wait.key is not None:
        return _of_event(wait)
    # The next full minute, since the words have no seconds: what begins at 11:22:50 has not begun at 11:22.
    at = (job.run_at + timedelta(minutes=1, microseconds=-1)).replace(second=0, microsecond=0)
    at = timezone.localtime(at) if timezone.is_aware(at) else at
    is_soon = job.run_at - job.now < timedelta(hours=12)
    facts = {"time": date_format(at, "TIME_FORMAT" if is_soon else "DATETIME_FORMAT")}
    if wait:
        return _("Continues at %(time)s") % facts
    if job.attempt:
        return _("Something went wrong. It is tried again at %(time)s") % facts
    return _("Begins at %(time)s") % facts


def _of_event(wait: Any) -> str:
    if wait.batch_id:
        return _("Waits for its parts")
    if wait.question or wait.choices:
        return _("Waits for your decision")
    return _("Waits for %(key)s") % {"key": wait.key}


def _running(job: Any, seen: Seen, progress: JobProgress) -> str:
    if job.cancel_requested_at is not None:
        return _("Stopping")
    if job.pk not in seen.silent:
        return _("Running")
    facts: dict[str, Any] = {"percent": progress.percent}
    facts["time"] = _duration(timedelta(seconds=settings().lease_seconds))
    opening = _("Interrupted.") if progress.percent is None else _("Interrupted at %(percent)d %%.") % facts
    facts["opening"] = opening
    if not seen.served.has(job.queue):
        return _("%(opening)s It continues when a worker is live") % facts
    return _("%(opening)s It continues by itself within about %(time)s") % facts


def _reached(progress: JobProgress) -> str:
    """Returns how far a job is whose pace is not known any more."""
    if progress.done is None or progress.total is None:
        return ""
    return _("%(done)s of %(total)s") % {"done": f"{progress.done:,}", "total": f"{progress.total:,}"}


def _pace(progress: JobProgress) -> str:
    parts = []
    if progress.per_minute is not None:
        digits = 0 if progress.per_minute >= SLOW_PER_MINUTE else 1
        parts.append(_("%(count)s per minute") % {"count": f"{progress.per_minute:,.{digits}f}"})
    if progress.left is not None:
        parts.append(_("%(time)s left") % {"time": _duration(progress.left)})
    return ", ".join(parts)


def _duration(time: timedelta) -> str:
    """Returns a duration in the language of the page: its readers are not operators, for whom wording.duration() is."""
    seconds = int(time.total_seconds())
    if seconds < SECONDS_TILL:
        return ngettext("%(count)d second", "%(count)d seconds", seconds) % {"count": seconds}
    minutes = round(seconds / 60)
    if minutes < MINUTES_TILL:
        return ngettext("%(count)d minute", "%(count)d minutes", minutes) % {"count": minutes}
    hours = round(minutes / 60)
    return ngettext("%(count)d hour", "%(count)d hours", hours) % {"count": hours}
