"""The indexes and constraints of pgonly_job, and the rows that they have, as conditions for statements."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.db import models
from django.db.models import F, Func, Q
from django.db.models.expressions import RawSQL
from django.db.models.lookups import Exact
from psycopg.sql import quote

from pgonly_django.conf import FAILED_RETENTION, LONGEST
from pgonly_django.error_texts import as_reason
from pgonly_django.models.readable import JsonField, Shape, is_figure, is_time
from pgonly_django.outcomes import Outcome

# After this many deaths of its worker a job is a suspect: a process runs one suspect at a time.
SUSPECT_FROM = 2
CRASHES_ALLOWED = 3  # after this many it is not started again
_READY, _PLAIN, _LIMITED = Q(state="ready"), Q(slots__isnull=True), Q(slots__isnull=False)
# What a claim may take: the rows of pgonly_job_ready and those of pgonly_job_suspect.
IS_READY = _PLAIN & _READY & Q(crashes__lt=SUSPECT_FROM)
IS_SUSPECT = _PLAIN & _READY & Q(crashes__gte=SUSPECT_FROM)
# The rows of pgonly_job_limited: jobs with a concurrency key, or of a task that takes several slots.
IS_LIMITED = _LIMITED & _READY
ERRORS_KEPT = 10
# What lists do not read.
LARGE_COLUMNS = ("args", "kwargs", "options", "then_job", "result", "errors", "log")
TIMES_ALLOWED = (datetime(1000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC))  # that a person may set
LOG_LINES_KEPT = 100
# What the JSON columns have in them: an entry of `errors`, a line of `log`, and `progress`.
_TEXTS = "outcome", "exception", "message", "reason", "traceback", "worker", "worker_id", "step"
_MOMENTS = "started_at", "finished_at", "step_started_at"
CAUSE: dict[str, Shape] = {
    "attempt": int,
    "in_a_row": int,
    **dict.fromkeys(_TEXTS, str),
}  # of an entry, what a list reads
ENTRY: Shape = {**CAUSE, **dict.fromkeys(_MOMENTS, is_time)}
LOG_LINE: Shape = {"at": is_time, "text": str}
_SINCE: Shape = {"done": is_figure, "seconds": is_figure}
PROGRESS: Shape = {"done": is_figure, "total": is_figure, "message": str, "since": _SINCE}
# When the retention of a job that ends now is over; longer than LONGEST is forever.
DELETE_AFTER = f"CASE WHEN retention <= interval '{LONGEST.days} days' THEN clock_timestamp() + retention END"
# The same for a job that fails now: it stays as long as a job that succeeded, and 90 days at least.
FAILED_FOR = f"""CASE WHEN failed_retention IS NOT NULL THEN failed_retention
    WHEN retention IS NOT NULL THEN greatest(retention, interval '{FAILED_RETENTION.days} days') END"""
FAILED_DELETE_AFTER = f"""CASE WHEN {FAILED_FOR} <= interval '{LONGEST.days} days'
    THEN clock_timestamp() + {FAILED_FOR} END"""
# `errors` with room for one more entry.
EARLIER_ERRORS = f"CASE WHEN jsonb_array_length(errors) >= {ERRORS_KEPT} THEN errors - 0 ELSE errors END"
# For `state IN (...)`, as pgonly_job_finished and pgonly_job_batch_unfinished have them.
_FINISHED, _UNFINISHED = ["succeeded", "failed", "cancelled"], ["scheduled", "ready", "running", "held"]
FINISHED_STATES, UNFINISHED_STATES = (", ".join(map(quote, states)) for states in (_FINISHED, _UNFINISHED))
# Whether a scheduled job is due some day, as text. A job that waits without a deadline has LONGEST until then.
IS_DUE_ONCE = f"run_at < statement_timestamp() + interval '{LONGEST.days // 2} days'"
# As text: when a job has become ready.
WAITING_SINCE = "greatest(ready_at, ready_again_at)"
# The rows of pgonly_job_unique: no two of them have the same unique_key. A key that counts while its job is waiting is
# gone with the first claim: the job may be released or tried again, and another job may have the key by then.
UNIQUE_ROW = Q(unique_key__isnull=False) & (
    Q(unique_while="retained")
    | Q(state__in=(*_UNFINISHED,)) & (Q(unique_while="unfinished") | Q(lease_epoch=0))
)


def errors_and(outcome: Outcome, reason: str, members: str | None = None) -> RawSQL:
    """Returns the column `errors` with an entry for what a person has done. Its time is in UTC whatever the session's
    zone. `members`: "keep" where the jobs that it has gathered continue."""
    now = """to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')"""
    facts = f"'outcome', %s::text, 'reason', %s::text, 'finished_at', {now}, 'members', %s::text"
    entry = f"({EARLIER_ERRORS}) || jsonb_strip_nulls(jsonb_build_object({facts}))"
    params = [outcome.value, as_reason(reason), members]
    return RawSQL(entry, params, output_field=JsonField())  # noqa: S611 - our own text


def json_is(kind: str, *columns: str) -> Q:
    """Returns a CHECK: these JSON columns are of this kind, or NULL."""
    kinds = (Func(F(name), function="jsonb_typeof", output_field=models.TextField()) for name in columns)
    return Q(*(Exact(each, kind) for each in kinds))


def _index(name: str, *columns: Any, when: Q) -> models.Index:
    return models.Index(*columns, condition=when, name=name)


_BAND = "queue", F("priority").desc()
_RUNNING, _FAILED, _MEMBER = Q(state="running"), Q(state="failed"), Q(batch_id__isnull=False)
IS_UNSENT = Q(dead_letter_queue__isnull=False) & _FAILED & Q(dead_lettered_at__isnull=True)

INDEXES = [
    # For claims: one range per queue and priority. They also find those pairs by a loose scan of it.
    _index("pgonly_job_ready", *_BAND, "ready_at", "id", when=IS_READY),
    # Suspects are few and claimed one at a time. The two indexes share no row, so the planner cannot take one
    # for the other, however old its statistics are.
    _index("pgonly_job_suspect", "ready_at", when=IS_SUSPECT),
    # For limited claims: one range per queue, priority and concurrency key.
    _index("pgonly_job_limited", *_BAND, "concurrency_key", "ready_at", "id", when=IS_LIMITED),
    # How many jobs of a concurrency key are running.
    _index("pgonly_job_limited_running", "concurrency_key", when=_LIMITED & _RUNNING),
    # The jobs that a budget holds.
    _index("pgonly_job_held", "held_by", "id", when=Q(held_by__isnull=False)),
    # What a job or a schedule has enqueued. A job that other code enqueued has no entry in it.
    _index("pgonly_job_enqueued_by", "enqueued_by", "id", when=Q(enqueued_by__isnull=False)),
    # The members of a batch, in the order of their enqueue; and whether one of them is unfinished.
    _index("pgonly_job_batch", "batch_id", "id", when=_MEMBER),
    _index("pgonly_job_batch_unfinished", "batch_id", when=_MEMBER & Q(state__in=_UNFINISHED)),
    # Failed jobs whose dead letter is still to be sent.
    _index("pgonly_job_dead_letter", "dead_letter_queue", "id", when=IS_UNSENT),
    _index("pgonly_job_scheduled", "run_at", when=Q(state="scheduled")),
    # For rescues, the heartbeat's search for unknown claims, and the admin. A renewal changes no column of it.
    _index("pgonly_job_running", "queue", when=_RUNNING),
    _index("pgonly_job_finished", "delete_after", when=Q(state__in=_FINISHED)),
    # For the admin: the jobs that failed last, among millions that succeeded. Written only when a job fails.
    _index("pgonly_job_failed", "finished_at", "id", when=_FAILED),
    # Cancelled jobs are counted and listed, the newest first.
    _index("pgonly_job_cancelled", "id", when=Q(state="cancelled")),
]
CONSTRAINTS: list[models.BaseConstraint] = [
    models.UniqueConstraint("unique_key", condition=UNIQUE_ROW, name="pgonly_job_unique"),
    models.CheckConstraint(
        condition=~_RUNNING | Q(worker_id__isnull=False, lease_expires_at__isnull=False),
        name="pgonly_job_running_has_lease",
    ),
    models.CheckConstraint(
        condition=~Q(state="scheduled") | Q(run_at__isnull=False), name="pgonly_job_scheduled_has_time"
    ),
    # A time that Python cannot hold, such as infinity, would break every list with the row. There is no constraint for
    # the kinds of the JSON columns: it costs each INSERT 40 us of 350.
    models.CheckConstraint(
        condition=Q(run_at__range=TIMES_ALLOWED) & Q(delete_after__range=TIMES_ALLOWED),
        name="pgonly_job_times",
    ),
]
