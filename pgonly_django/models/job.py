"""The job row and its verbs. Every change of state that does not belong to a worker's run is here."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import models
from django.db.models import Case, F, Func, Q, Value, When
from django.db.models.expressions import RawSQL
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext_lazy as _

from pgonly_django.compat import uuid7
from pgonly_django.conf import LONGEST
from pgonly_django.database import notify
from pgonly_django.database.libpq import printable
from pgonly_django.database.on_django import require_autocommit
from pgonly_django.models.readable import IntervalField, ReadableJsonField, TimestampField, entries_of

# After this many deaths of its worker a job is a suspect, of which a process runs one at a time; after
# CRASHES_ALLOWED it is not started again.
SUSPECT_FROM, CRASHES_ALLOWED = 2, 3
# The rows of pgonly_job_ready and those of pgonly_job_suspect. The values are literals in every statement: with a
# parameter the planner cannot use the partial index once the prepared plan is generic.
READY_ROW = f"state = 'ready' AND crashes < {SUSPECT_FROM}"
SUSPECT_ROW = f"state = 'ready' AND crashes >= {SUSPECT_FROM}"
ERRORS_KEPT = 10
REASON_LIMIT = 2000
LOG_LINES_KEPT = 100
# When the retention of a job that ends now is over; longer than LONGEST is for ever.
EXPIRES_AT = f"CASE WHEN retention <= interval '{LONGEST.days} days' THEN clock_timestamp() + retention END"
# `errors` with room for one more entry.
EARLIER_ERRORS = f"CASE WHEN jsonb_array_length(errors) >= {ERRORS_KEPT} THEN errors - 0 ELSE errors END"


class ClockTimestamp(Func):
    """The database's clock, which moves on inside a transaction (now() does not)."""

    template = "clock_timestamp()"
    output_field = models.DateTimeField()


class State(models.TextChoices):
    SCHEDULED = "scheduled", _("Scheduled")  # waits for run_at: asked for, or the backoff after an error
    READY = "ready", _("Ready")  # any worker may claim it
    RUNNING = "running", _("Running")  # belongs to worker_id while the lease lasts
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")  # no attempt left, discarded, or its worker died three times
    CANCELLED = "cancelled", _("Cancelled")


WAITING = (State.SCHEDULED, State.READY)
FINISHED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
# For `state IN (...)`, as pgonly_job_finished has it.
FINISHED_STATES = ", ".join(f"'{state.value}'" for state in FINISHED)
# From which states a person's verb may move a job. `cancel` of a running job is a request to its worker.
RETRYABLE = (State.FAILED, State.CANCELLED, State.SCHEDULED)
CANCELLABLE = (*WAITING, State.RUNNING)
DISCARDABLE = WAITING


class JobQuerySet(models.QuerySet["Job"]):
    def waiting(self) -> JobQuerySet:
        return self.filter(state__in=WAITING)

    def running(self) -> JobQuerySet:
        return self.filter(state=State.RUNNING)

    def finished(self) -> JobQuerySet:
        return self.filter(state__in=FINISHED)

    def failed(self) -> JobQuerySet:
        return self.filter(state=State.FAILED)

    def retry(self) -> int:
        """Make failed, cancelled and scheduled jobs ready now, with all their attempts. Returns how many.

        Steps and checkpoint stay: a retried job resumes where it stood. Others are left alone.
        """
        alias = self._writing_alias()
        count = self.filter(state__in=RETRYABLE).update(
            state=State.READY,
            ready_at=ClockTimestamp(),
            attempt=0,
            crashes=0,
            result=None,
            cancel_requested_at=None,
            finished_at=None,
            expires_at=None,
        )
        if count:
            notify.wake_after_commit(alias, notify.ready(notify.ANY_QUEUE))
        return count

    def cancel(self) -> int:
        """Cancel waiting jobs at once and ask the workers of running ones to stop them. Returns how many."""
        alias, running = self._writing_alias(), Q(state=State.RUNNING)
        # One statement: a job that is claimed or released meanwhile is judged by its newest row.
        count = self.filter(state__in=CANCELLABLE).update(
            cancel_requested_at=ClockTimestamp(),
            finished_at=Case(When(running, then=F("finished_at")), default=ClockTimestamp()),
            expires_at=Case(When(running, then=F("expires_at")), default=_expiry()),
            state=Case(When(running, then=Value(State.RUNNING.value)), default=Value(State.CANCELLED.value)),
        )
        if count:
            notify.wake_after_commit(alias, notify.cancel(notify.ANY_QUEUE))
        return count

    def discard(self, reason: str = "Discarded by a person.") -> int:
        """Give up on waiting jobs: no further attempt, state failed with `reason`. Returns how many."""
        now, reason = datetime.now(UTC).isoformat(), printable(str(reason))[:REASON_LIMIT]
        entry = json.dumps([{"outcome": "discarded", "reason": reason, "finished_at": now}])
        return self.filter(state__in=DISCARDABLE).update(
            state=State.FAILED,
            finished_at=ClockTimestamp(),
            expires_at=_expiry(),
            # Relies on no index; the column is this row's own.
            errors=RawSQL("errors || %s::jsonb", [entry], output_field=models.JSONField()),
        )

    def _writing_alias(self) -> str:
        """Where update() is going to write, which `db` does not tell by itself: it is the router's for reading.

        Raises ManualCommitError where the workers could not be woken after the commit.
        """
        self._for_write = True  # as all of Django's own that write, for `db`
        alias: str = self.db
        require_autocommit(alias, "retry() and cancel()")
        return alias


def _expiry() -> models.expressions.Combinable:
    return RawSQL(EXPIRES_AT, [], output_field=models.DateTimeField())  # noqa: S611 - our own text


class Job(models.Model):
    """One call of a task, from enqueue to the end of its retention."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    backend = models.CharField(max_length=64, default="default", help_text=_("The alias in TASKS."))
    queue = models.CharField(max_length=64, default="default")
    task = models.CharField(max_length=255, help_text=_("The dotted path of the task."))
    args = ReadableJsonField(default=list)
    kwargs = ReadableJsonField(default=dict)
    options = ReadableJsonField(null=True, help_text=_("What .using() set for this job alone."))
    priority = models.SmallIntegerField(default=0, help_text=_("-100 to 100, larger first."))
    run_at = TimestampField(null=True, help_text=_("Not before this time."))
    ready_at = TimestampField(
        db_default=ClockTimestamp(), help_text=_("When it last became ready: the order of claims.")
    )

    state = models.CharField(max_length=16, choices=State, default=State.READY)
    lease_epoch = models.IntegerField(default=0, help_text=_("Raised by every claim; fences older runs off."))
    worker_id = models.UUIDField(null=True)
    lease_expires_at = TimestampField(null=True)

    attempt = models.SmallIntegerField(default=0)
    max_attempts = models.SmallIntegerField(default=4)
    interruptions = models.IntegerField(default=0, help_text=_("Planned stops; they cost no attempt."))
    crashes = models.SmallIntegerField(
        default=0, help_text=_("Deaths of its worker that it is suspected of.")
    )
    max_runtime = IntervalField(null=True)
    retention = IntervalField(null=True, help_text=_("Kept this long once finished; empty: for ever."))

    progress = ReadableJsonField(null=True, help_text=_("done, total and message."))
    result = ReadableJsonField(null=True)
    errors = ReadableJsonField(default=list, help_text=_("The last attempts that did not succeed."))
    log = ReadableJsonField(default=list, help_text=_("The last lines the job logged."))

    cancel_requested_at = TimestampField(null=True)
    enqueued_at = TimestampField(db_default=ClockTimestamp())
    started_at = TimestampField(null=True)
    attempted_at = TimestampField(null=True, help_text=_("When its latest run began."))
    finished_at = TimestampField(null=True)
    expires_at = TimestampField(null=True, help_text=_("When a finished job is pruned."))

    objects = JobQuerySet.as_manager()

    class Meta:
        db_table = "pgonly_job"
        verbose_name = _("job")
        permissions = [("operate_job", _("Can retry, cancel and discard jobs"))]
        indexes = [
            # The claim: one exact range per (queue, priority). Also the bands themselves, by loose scan.
            models.Index(
                "queue",
                F("priority").desc(),
                "ready_at",
                "id",
                condition=Q(state="ready", crashes__lt=SUSPECT_FROM),
                name="pgonly_job_ready",
            ),
            # Suspects are few and claimed one at a time, apart from the crowd. The two indexes share no row, so
            # no statistics, however old, can make the planner take one for the other.
            models.Index(
                "ready_at",
                condition=Q(state="ready", crashes__gte=SUSPECT_FROM),
                name="pgonly_job_suspect",
            ),
            models.Index("run_at", condition=Q(state="scheduled"), name="pgonly_job_scheduled"),
            # Rescue, the heartbeat's reconciliation and the admin; renewing touches no column of it.
            models.Index("queue", condition=Q(state="running"), name="pgonly_job_running"),
            models.Index(
                "expires_at",
                condition=Q(state__in=[state.value for state in FINISHED]),
                name="pgonly_job_finished",
            ),
            # The failed ones, newest first, among millions that succeeded; written only when a job fails.
            models.Index("id", condition=Q(state="failed"), name="pgonly_job_failed"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=~Q(state="running") | Q(worker_id__isnull=False, lease_expires_at__isnull=False),
                name="pgonly_job_running_has_lease",
            ),
            models.CheckConstraint(
                condition=~Q(state="scheduled") | Q(run_at__isnull=False),
                name="pgonly_job_scheduled_has_time",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.task} {self.id}"

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def error_entries(self) -> list[dict[str, Any]]:
        """`errors`, also where another program has put something else than a list of objects there."""
        return entries_of(self.errors)

    @property
    def run_seconds(self) -> float | None:
        """How long the latest run took, or has been taking by this machine's clock; None where none is known.

        The time until a person's verb, or in a waiting state, is no part of it.
        """
        if self.attempted_at is None:
            return None
        if self.state not in (State.RUNNING, State.SUCCEEDED):
            return _recorded_seconds(self.error_entries)
        end = timezone.now() if self.state == State.RUNNING else (self.finished_at or self.attempted_at)
        return max((end - self.attempted_at) / timedelta(seconds=1), 0.0)


def _recorded_seconds(entries: list[dict[str, Any]]) -> float | None:
    """The length of the last run on record; a task that no worker knew yet has not run."""
    for entry in reversed(entries):
        if "started_at" in entry and entry.get("outcome") != "postponed":
            return seconds_between(entry["started_at"], entry.get("finished_at"))
    return None


def seconds_between(began: str | None, ended: str | None) -> float | None:
    """Of two times as an entry of `errors` has them; None where one is missing or no time."""
    try:
        start, end = parse_datetime(began or ""), parse_datetime(ended or "")
        return None if start is None or end is None else max((end - start) / timedelta(seconds=1), 0.0)
    except (TypeError, ValueError):
        return None
