"""One look at the jobs of a page: their rows, what keeps them waiting, and what they have emitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from django.utils.translation import gettext as _

from pgonly_django.compat import InvalidTaskBackend, task_backends
from pgonly_django.models import Job, Queue, State, Worker
from pgonly_django.models.job import CANCELLABLE, ClockTimestamp
from pgonly_django.monitoring.progress import job_progress
from pgonly_django.monitoring.workers import served_queues
from pgonly_django.progress import wording
from pgonly_django.progress.tokens import Grant
from pgonly_django.progress.wording import Surroundings
from pgonly_django.queue.output import Cursor, Piece, Question, read_pieces

MESSAGE_LENGTH = 300
COLUMNS = (
    "id", "backend", "queue", "state", "run_at", "attempt", "progress", "attempted_at", "reported_at",
    "worker_id", "lease_expires_at", "cancel_requested_at",
)  # fmt: skip


# A page gets what is new of its output in answers of about so many characters, of all its jobs together.
OF_AN_EVENT, OF_AN_ANSWER, WHOLE = 32_768, 262_144, 2**31 - 1
# A statement reads so many pieces, so that many readers of long outputs need no more memory than a few.
PIECES_AT_ONCE = 20


class Wanted(NamedTuple):
    grant: Grant
    cursor: Cursor = Cursor()
    size: int = WHOLE

    @property
    def question(self) -> Question:
        return Question(self.grant.job_id, self.cursor, self.size)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look has read, by jobs and questions, of a database."""

    jobs: dict[str, Any]  # each with `now`: the clock of this machine may differ from that of the rows
    around: Surroundings
    pieces: dict[Question, Piece]


def database_of(backend: str) -> str | None:
    """None: no backend of this name keeps its jobs in rows."""
    try:
        return getattr(task_backends[backend], "database", None)
    except InvalidTaskBackend:
        return None


def look(wanted: Sequence[Wanted]) -> list[dict[str, Any]]:
    """What is to be shown of each, in the same order. Statements: see read()."""
    seen = {alias: read(alias, part) for alias, part in by_database(wanted).items()}
    return in_words(wanted, seen)


def by_database(wanted: Sequence[Wanted]) -> dict[str, list[Wanted]]:
    parts: dict[str, list[Wanted]] = {}
    for each in wanted:
        if (alias := database_of(each.grant.backend)) is not None:
            parts.setdefault(alias, []).append(each)
    return parts


def read(alias: str, wanted: Sequence[Wanted]) -> Seen:
    """One statement for all jobs, up to three for what keeps them waiting, and one for each PIECES_AT_ONCE outputs.
    The outputs come last: of a job that is over all is read. Index: primary keys."""
    rows = Job.objects.using(alias).only(*COLUMNS).annotate(now=ClockTimestamp())
    found = rows.in_bulk({UUID(each.grant.job_id) for each in wanted})
    jobs = {str(job_id): job for job_id, job in found.items()}
    questions = list({each.question for each in wanted if each.grant.shows_output and _row(jobs, each)})
    pieces: dict[Question, Piece] = {}
    for at in range(0, len(questions), PIECES_AT_ONCE):
        pieces |= read_pieces(alias, questions[at : at + PIECES_AT_ONCE])
    return Seen(jobs, _surroundings(alias, list(jobs.values())), pieces)


def _row(jobs: dict[str, Any], wanted: Wanted) -> Any:
    """None where the job is of another backend: the token says which one may be seen."""
    job = jobs.get(wanted.grant.job_id)
    return job if job is not None and job.backend == wanted.grant.backend else None


def in_words(wanted: Sequence[Wanted], seen: Mapping[str, Seen]) -> list[dict[str, Any]]:
    """In the language and the time zone of the caller, without a statement."""
    return [_shown(each, seen.get(database_of(each.grant.backend) or "")) for each in wanted]


def _surroundings(alias: str, jobs: Sequence[Any]) -> Surroundings:
    waiting = {job.queue for job in jobs if job.state in (State.READY, State.SCHEDULED)}
    late = {each.worker_id for each in jobs if each.worker_id and wording.silent_seconds(each, each.now)}
    if not (waiting or late):
        return Surroundings(None, set(), set())
    served, paused = None, set()
    if waiting:
        served = served_queues(alias)
        queues = Queue.objects.using(alias).filter(name__in=waiting, paused_at__isnull=False)
        paused = set(queues.values_list("name", flat=True))
    if late:  # a job that holds its own row locked is not renewed, and its worker lives
        lives = Worker.objects.using(alias).live().filter(pk__in=late)
        late -= set(lives.values_list("pk", flat=True))
    return Surroundings(served, paused, set(late))


def _shown(wanted: Wanted, seen: Seen | None) -> dict[str, Any]:
    job = _row(seen.jobs, wanted) if seen else None
    if seen is None or job is None:
        return {"state": "gone", "label": _("No longer here"), "is_over": True, "may_cancel": False}
    progress = job_progress(job, job.now)
    reported = job.progress if isinstance(job.progress, dict) else {}
    shown: dict[str, Any] = {
        "state": job.state,
        "label": wording.label(job, seen.around, job.now),
        "percent": 100 if job.state == State.SUCCEEDED else progress.percent,
        "pace": wording.pace(progress),
        "message": str(reported.get("message") or "")[:MESSAGE_LENGTH],
        "is_over": job.is_finished,
        "may_cancel": wanted.grant.may_cancel
        and job.state in CANCELLABLE
        and job.cancel_requested_at is None,
    }
    if (piece := seen.pieces.get(wanted.question)) is not None and wanted.grant.shows_output:
        output = piece.output
        shown["output"] = {"text": output.text, "keep": output.keep, "offset": str(output.offset)}
        if piece.has_more:  # progress.js asks for it at once, and asks no more where all is over
            shown |= {"is_over": False, "output": {**shown["output"], "next": str(piece.next)}}
    return shown


def cancel(grant: Grant) -> bool:
    """Whether there was something to cancel."""
    alias = database_of(grant.backend)
    rows = Job.objects.using(alias).filter(pk=grant.job_id, backend=grant.backend)
    return alias is not None and bool(rows.cancel())
