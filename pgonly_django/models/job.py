"""The job row, its states, and the verbs that people use on it; the statements of workers are in queue/.
ARCHITECTURE.md, "When you change a column", names the other files that know its columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from django.apps import apps
from django.db import connections, models, transaction
from django.db.models import Case, Exists, F, Func, OuterRef, Q, Value, When
from django.db.models.expressions import RawSQL
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Cast, Coalesce
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext_lazy as _
from psycopg.errors import UniqueViolation

from pgonly_django.compat import uuid7
from pgonly_django.database import notify
from pgonly_django.database.on_django import repeat_after_conflict, require_autocommit, runs_commit_hooks
from pgonly_django.database.statement import printable
from pgonly_django.models.batch import batches_of, lock, reopen
from pgonly_django.models.job_rows import (
    CONSTRAINTS,
    DELETE_AFTER,
    ENTRY,
    FAILED_DELETE_AFTER,
    INDEXES,
    LOG_LINE,
    PROGRESS,
    UNIQUE_ROW,
    errors_and,
)
from pgonly_django.models.readable import IntervalField, JsonField, TimestampField
from pgonly_django.models.related import cancel_orphaned, forget_steps, gathered_by, needed_by
from pgonly_django.outcomes import NOT_RUN, Outcome
from pgonly_django.tables import table

# The key in `progress` under which a worker notes from where the speed is measured; absent: from nought.
MEASURED_SINCE = "since"
DELETION = RawSQL(DELETE_AFTER, [], output_field=TimestampField())  # noqa: S611 - our own text
FAILED_DELETION = RawSQL(FAILED_DELETE_AFTER, [], output_field=TimestampField())  # noqa: S611 - our own text


class ClockTimestamp(Func):
    """The database's clock. It advances inside a transaction, where now() stands still."""

    template = "clock_timestamp()"
    output_field = TimestampField()


class State(models.TextChoices):
    SCHEDULED = "scheduled", _("Scheduled")  # waits for run_at, which its caller or its backoff chose
    READY = "ready", _("Ready")  # any worker may claim it
    RUNNING = "running", _("Running")  # belongs to worker_id while the lease lasts
    HELD = "held", _("Held")  # waits for a person: over its budget, or an error that holds it
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")  # no attempt left, discarded, or its worker died three times
    CANCELLED = "cancelled", _("Cancelled")


class UniqueWhile(models.TextChoices):
    """How long no second job may have the same unique_key."""

    WAITING = "waiting", _("Waiting")  # until it is claimed
    UNFINISHED = "unfinished", _("Unfinished")  # until it has finished
    RETAINED = "retained", _("Retained")  # as long as its row is there


WAITING = (State.SCHEDULED, State.READY)
FINISHED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
# The states from which retry(), cancel(), discard(), hold(), resume() and run_now() may move a job.
RETRYABLE = (State.FAILED, State.CANCELLED, State.SCHEDULED, State.HELD)
CANCELLABLE = (*WAITING, State.HELD, State.RUNNING)
DISCARDABLE = (*WAITING, State.HELD)
HOLDABLE = WAITING
KEYLESS = (State.HELD, State.FAILED, State.CANCELLED)  # a job that waits keeps no concurrency key in them
RESUMABLE = (State.HELD,)
STARTABLE = (State.SCHEDULED,)
BY_A_PERSON = "a person"  # held_by, where no budget and no error holds the job
HELD_BY_LENGTH = 255
BATCHES_TOLD = 100  # of more batches, a sweep finds those that are over

# The finished rows that retry() and redrive() would bring back into it.
COMES_BACK = (
    Q(unique_key__isnull=False)
    & Q(state__in=FINISHED)
    & (Q(unique_while="unfinished") | Q(unique_while="waiting", lease_epoch=0))
)


# A job that became ready, was claimed, and has kept `ready_at` since then has kept its place: see queue/finish.py.
KEPT_ITS_PLACE = Q(attempted_at__gte=F("ready_at"))
# What becomes of a job that waited or was held, and is ready now.
READY_AGAIN = {
    "state": State.READY,
    "ready_at": Case(When(KEPT_ITS_PLACE, then=F("ready_at")), default=ClockTimestamp()),
    "ready_again_at": Case(When(KEPT_ITS_PLACE, then=ClockTimestamp()), default=None),
}
# What retry() and redrive() set besides the state: the job runs again with all its attempts, at the end of its queue.
FROM_THE_START = {"attempt": 0, "crashes": 0, "ready_at": ClockTimestamp()} | dict.fromkeys((
    "ready_again_at", "held_by", "result", "cancel_requested_at", "finished_at", "delete_after", "dead_lettered_at",
))  # fmt: skip


class JobQuerySet(models.QuerySet["Job"]):
    def waiting(self) -> JobQuerySet:
        """Returns the jobs that are scheduled or ready."""
        return self.filter(state__in=WAITING)

    def running(self) -> JobQuerySet:
        """Returns the jobs that a worker holds."""
        return self.filter(state=State.RUNNING)

    def finished(self) -> JobQuerySet:
        """Returns the jobs that have succeeded, failed or were cancelled."""
        return self.filter(state__in=FINISHED)

    def failed(self) -> JobQuerySet:
        """Returns the jobs that have no attempt left, or were given up."""
        return self.filter(state=State.FAILED)

    def failed_with(self, *errors: type[BaseException] | str) -> JobQuerySet:
        """Returns the failed jobs whose last error is of one of these classes: a class, its dotted path, or its name
        alone. Without an exception the outcome counts: "crashed" finds the jobs whose worker died."""
        paths = [
            each if isinstance(each, str) else f"{each.__module__}.{each.__qualname__}" for each in errors
        ]
        entry = KeyTransform(-1, "errors")
        last = Coalesce(KeyTextTransform("exception", entry), KeyTextTransform("outcome", entry))
        condition = Q(last_error__in=paths)
        for path in paths:
            condition |= Q(last_error__endswith=f".{path}")
        return self.failed().alias(last_error=Cast(last, models.TextField())).filter(condition)

    def held(self, by: str | None = None) -> JobQuerySet:
        """Returns the jobs that wait for a person; with `by` the jobs that this holds, such as "budget:project:7"."""
        held = self.filter(state=State.HELD, held_by__isnull=False)
        return held if by is None else held.filter(held_by=by)

    def with_free_keys(self) -> JobQuerySet:
        """Returns the jobs that retry() may bring back without a second job having their unique_key: without the
        finished ones whose key another job has by now, and of several finished ones with one key only the newest."""
        newest = self.filter(COMES_BACK).order_by("unique_key", "-pk").distinct("unique_key").values("pk")
        newest.query.select_for_update = False  # which PostgreSQL refuses with DISTINCT
        return self.filter(key_is_free(), ~COMES_BACK | Q(pk__in=newest))

    def retry(self, *, forget: Collection[str] = (), members: Literal["retry", "keep"] = "retry") -> int:
        """Makes failed, cancelled, held and scheduled jobs ready now, with all their attempts and without the deaths of
        workers that they are suspected of. Returns how many. Steps and checkpoint stay: a retried job resumes where it
        stood. Jobs in other states are left alone, and those whose unique_key another job has by now. A batch that one
        of them is a member of opens again.

        `forget` names steps and waits whose results are deleted, so that the job makes these calls, or waits, once
        more: retry(forget=["event approve:7"]) after a timeout. A job that was cancelled or discarded, or has failed
        with GatherError, needs the jobs that it has gathered: those that have failed or were cancelled are retried with
        it, at all levels, but not with `members="keep"`. Raises WrongArgumentsError for a name in `forget` that none of
        the jobs has."""
        self._for_write = True
        require_autocommit(self.db, "retry()")  # atomic() would hide it
        ready = notify.ready(notify.ANY_QUEUE)

        def retry() -> int:
            with transaction.atomic(using=self.db):
                rows = self.filter(self._free_kept_keys(), self._of_reopened_batches())
                rows = rows.filter(state__in=RETRYABLE).with_free_keys()
                needed = needed_by(rows) if members == "retry" else self.none()
                if forget:
                    rows = self.model.objects.using(self.db).filter(pk__in=forget_steps(rows, forget))
                count = rows._update_and_wake(RETRYABLE, ready, state=State.READY, **FROM_THE_START)  # noqa: SLF001 - our own class
                if needed.exists():
                    needed.retry()
                return count

        # Another job may take a unique_key between the look at it and the write; the caller's transaction stays usable.
        return repeat_after_conflict(self.db, retry, UniqueViolation)

    def _of_reopened_batches(self) -> Q:
        """Opens the batches of the jobs that retry() is about to write. Returns a condition without the members of
        others: one that fails at this moment stays as it is, and its batch may be closed."""
        batches = batches_of(self.filter(state__in=RETRYABLE))
        lock(self.db, batches)
        reopen(self.db, batches)
        return Q(batch_id__isnull=True) | Q(batch_id__in=batches)

    def cancel(self) -> int:
        """Cancels waiting and held jobs at once and asks the workers of running ones to stop them. Returns how many.
        The jobs that they have gathered are cancelled, too, at all levels."""
        return self._end_with_members(CANCELLABLE, self._cancel)

    def _cancel(self) -> int:
        running = Q(state=State.RUNNING)
        # It is one statement, so that the newest version of each row decides: a job may be claimed at this moment.
        return self._update_and_wake(
            CANCELLABLE,
            notify.cancel(notify.ANY_QUEUE),
            held_by=None,
            cancel_requested_at=ClockTimestamp(),
            finished_at=Case(When(running, then=F("finished_at")), default=ClockTimestamp()),
            delete_after=Case(When(running, then=F("delete_after")), default=DELETION),
            state=Case(When(running, then=Value(State.RUNNING.value)), default=Value(State.CANCELLED.value)),
        )

    def discard(
        self, reason: str = "Discarded by a person.", *, members: Literal["cancel", "keep"] = "cancel"
    ) -> int:
        """Gives up on waiting and held jobs: they get no further attempt, and fail with `reason`. Returns how many. The
        jobs that they have gathered are cancelled, at all levels; with `members="keep"` these continue."""
        discard = partial(
            self._update_and_wake,
            DISCARDABLE,
            state=State.FAILED,
            held_by=None,
            finished_at=ClockTimestamp(),
            delete_after=FAILED_DELETION,
            errors=errors_and(Outcome.DISCARDED, reason, "keep" if members == "keep" else None),
        )
        return discard() if members == "keep" else self._end_with_members(DISCARDABLE, discard)

    def _end_with_members(self, states: Sequence[State], end: Callable[[], int]) -> int:
        """Calls `end()`, and cancels in its transaction what the jobs that it ends have gathered, at all levels."""
        self._for_write = True
        gathered = gathered_by(self.filter(state__in=states)).filter(finished_at=None)
        batches = list(gathered.values_list("pk", flat=True))
        if not batches:  # a sweep finds what a job gathers at this moment
            return end()
        require_autocommit(self.db, "cancel() or discard()")  # atomic() would hide it
        return repeat_after_conflict(self.db, partial(cancel_orphaned, self.db, batches, end))

    def hold(self, reason: str = "Held by a person.", *, by: str = BY_A_PERSON) -> int:
        """Keeps waiting jobs from running until resume() (or retry()), with `reason` among their errors. Returns how
        many. Running jobs are left alone. `by` says what holds them, at most 255 characters: see held()."""
        # What retry() has made ready before its time does not wait for that time after it is resumed.
        is_early = Q(state=State.READY, run_at__gt=ClockTimestamp())
        return self.filter(state__in=HOLDABLE).update(
            state=State.HELD,
            held_by=printable(str(by))[:HELD_BY_LENGTH],
            run_at=Case(When(is_early, then=None), default=F("run_at")),
            errors=errors_and(Outcome.HELD, reason),
        )

    def resume(self) -> int:
        """Lets held jobs continue from their checkpoint and steps, with the attempts that they have left. Returns how
        many. A job whose run_at is in the future waits until then, except one that waits for an event or a time: its
        event may have come since it was held, so it looks again."""
        is_ahead = Q(run_at__gt=ClockTimestamp()) & ~_waits_now()
        state = Case(When(is_ahead, then=Value(State.SCHEDULED.value)), default=Value(State.READY.value))
        return self.filter(self._free_kept_keys())._update_and_wake(  # noqa: SLF001 - our own class
            RESUMABLE,
            notify.ready(notify.ANY_QUEUE),
            notify.DUE,
            **READY_AGAIN | {"state": state, "held_by": None},
        )

    def _free_kept_keys(self) -> Q:
        """Notes that the jobs which resume() or retry() is about to write keep no concurrency key any more. Another job
        may have started with the key since they were held, or ended. (A scheduled job still has its key.) Returns a
        condition without jobs that still keep a key: they are held, or end, at this moment. Index: pgonly_wait_kept,
        which is empty most of the time."""
        self._for_write = True
        waits: Any = apps.get_model("pgonly_django", "Wait")
        kept = waits.objects.using(self.db).filter(kept_key__isnull=False)
        kept.filter(job__in=self.filter(state__in=KEYLESS).order_by().values("pk")).update(kept_key=None)
        return ~Q(Exists(kept.filter(job=OuterRef("pk"))), state__in=KEYLESS)

    def run_now(self) -> int:
        """Makes scheduled jobs ready before their time: jobs that wait for their run_at, their next attempt or the end
        of a snooze. Returns how many. Everything else is as at that time: attempts, crashes, steps and checkpoint stay,
        and limits and pauses apply."""
        return self._update_and_wake(STARTABLE, notify.ready(notify.ANY_QUEUE), **READY_AGAIN)

    def _update_and_wake(self, states: Sequence[State], *payloads: str, **changes: Any) -> int:
        """Tells the workers after the commit, also of batches. Raises ManualCommitError where `payloads` were lost."""
        # As Django's own writing methods do: otherwise `db` is the router's for reading.
        self._for_write = True
        alias: str = self.db
        if payloads:
            require_autocommit(alias, "retry(), resume(), run_now() and cancel()")
        rows = self.filter(state__in=states)
        is_told = changes.get("finished_at") and (payloads or runs_commit_hooks(connections[alias]))
        batches = batches_of(rows, BATCHES_TOLD) if is_told else []
        count = rows.update(**changes)
        if count:
            for payload in (*payloads, *map(notify.batch, batches)):
                notify.wake_after_commit(alias, payload)
        return count


def _waits_now() -> Exists:
    """Finds jobs that wait for an event or a time."""
    waits: Any = apps.get_model("pgonly_django", "Wait")
    return Exists(waits.objects.filter(job=OuterRef("pk"), lease_epoch=OuterRef("lease_epoch")))


def key_is_free() -> Q:
    """Returns a condition for the jobs that retry() would bring back into pgonly_job_unique whose key no job has, and
    for all others."""
    others = Job.objects.filter(UNIQUE_ROW, unique_key=OuterRef("unique_key"))
    return Q(~COMES_BACK | ~Exists(others))


class Job(models.Model):
    """One call of a task, from enqueue to the end of its retention."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    backend = models.CharField(max_length=64, default="default", help_text=_("The alias in TASKS."))
    queue = models.CharField(max_length=64, default="default")
    task = models.CharField(max_length=255, help_text=_("The dotted path of the task."))
    args = JsonField(of=list, default=list)
    kwargs = JsonField(of=dict, default=dict)
    options = JsonField(of=dict, null=True, help_text=_("Set by .using() for this job alone."))
    metadata = JsonField(of=dict, null=True, help_text=_("Carried beside its arguments."))
    priority = models.SmallIntegerField(default=0, help_text=_("-100 to 100, larger first."))
    run_at = TimestampField(null=True, help_text=_("It does not start before this time."))
    ready_at = TimestampField(
        db_default=ClockTimestamp(),
        help_text=_("Its place in the order of claims: when it became ready, or earlier."),
    )
    ready_again_at = TimestampField(
        null=True, help_text=_("When it last became ready again at the place that it had kept.")
    )

    state = models.CharField(max_length=16, choices=State, default=State.READY)
    lease_epoch = models.IntegerField(default=0, help_text=_("Raised by every claim; fences off older runs."))
    worker_id = models.UUIDField(null=True)
    lease_expires_at = TimestampField(null=True)

    attempt = models.SmallIntegerField(default=0)
    max_attempts = models.SmallIntegerField(default=8)
    interruptions = models.IntegerField(default=0, help_text=_("Planned stops; they use up no attempt."))
    crashes = models.SmallIntegerField(default=0, help_text=_("Worker deaths that it is suspected of."))
    max_runtime = IntervalField(null=True)
    # NULL in the rows of most jobs, which is free: the indexes below ask for that first.
    unique_key = models.CharField(max_length=255, null=True, help_text=_("No second job may have it."))  # noqa: DJ001 - NULL keeps the row out of the index
    unique_while = models.CharField(  # noqa: DJ001 - as unique_key
        max_length=16, null=True, choices=UniqueWhile, help_text=_("The states in which the key counts.")
    )
    unique_until = TimestampField(
        null=True, help_text=_("When the key is free again; empty: by state alone.")
    )
    concurrency_key = models.CharField(max_length=255, null=True, help_text=_("The key its limit counts."))  # noqa: DJ001 - as unique_key
    concurrency_limit = models.SmallIntegerField(null=True, help_text=_("Maximum jobs of the key at a time."))
    slots = models.SmallIntegerField(
        null=True, help_text=_("Threads of its worker that it occupies; empty: one, and no concurrency key.")
    )
    failed_retention = IntervalField(
        null=True, help_text=_("Kept this long after it failed; empty: as retention, at least 90 days.")
    )
    dead_letter_queue = models.CharField(  # noqa: DJ001 - as unique_key
        max_length=64, null=True, help_text=_("Its task is called when the job has failed.")
    )
    dead_lettered_at = TimestampField(null=True)
    held_by = models.CharField(max_length=255, null=True, help_text=_("Its holder, such as a budget."))  # noqa: DJ001 - as unique_key
    enqueued_by = models.CharField(  # noqa: DJ001 - as unique_key
        max_length=264,
        null=True,
        help_text=_("The job, schedule or batch that it comes from; empty: other code."),
    )
    then_job = JsonField(
        of={"task": str}, null=True, help_text=_("The job that is enqueued when it succeeds.")
    )
    # No foreign key: its check would lock the row of the batch for each member.
    batch_id = models.UUIDField(null=True, help_text=_("The batch that it is a member of."))
    retention = IntervalField(null=True, help_text=_("Kept this long after its end; empty: forever."))

    progress = JsonField(of=PROGRESS, null=True, help_text=_("done, total and message."))
    result = JsonField(null=True)
    errors = JsonField(of=[ENTRY], default=list, help_text=_("The last attempts that did not succeed."))
    log = JsonField(of=[LOG_LINE], default=list, help_text=_("The last lines the job logged."))

    cancel_requested_at = TimestampField(null=True)
    enqueued_at = TimestampField(db_default=ClockTimestamp())
    started_at = TimestampField(null=True, help_text=_("When the first run that began was claimed."))
    attempted_at = TimestampField(null=True, help_text=_("When its latest run was claimed."))
    reported_at = TimestampField(null=True, help_text=_("When it last reported progress or a log line."))
    finished_at = TimestampField(null=True)
    delete_after = TimestampField(null=True, help_text=_("When the finished job is deleted."))

    objects = JobQuerySet.as_manager()

    class Meta:
        db_table = table("pgonly_job")
        verbose_name = _("job")
        permissions = [
            ("operate_job", _("Can retry, cancel, discard, hold and resume jobs")),
            ("view_job_data", _("Can see the arguments, results and tracebacks of jobs")),
        ]
        indexes = INDEXES
        constraints = CONSTRAINTS

    def __str__(self) -> str:
        return f"{self.task.rpartition('.')[2]} {self.id}"

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def waiting_since(self) -> datetime:
        """The time at which it last became ready."""
        return max(self.ready_at, self.ready_again_at or self.ready_at)

    @property
    def run_seconds(self) -> float | None:
        """The length of the latest run, or how long it has taken so far by this machine's clock; None when no run is
        known. The time that the job then waited, for another attempt or a person, does not count."""
        if self.attempted_at is None:
            return None
        if self.state not in (State.RUNNING, State.SUCCEEDED):
            return _recorded_seconds(self.errors)
        end = timezone.now() if self.state == State.RUNNING else (self.finished_at or self.attempted_at)
        return max((end - self.attempted_at) / timedelta(seconds=1), 0.0)


def _recorded_seconds(entries: list[dict[str, Any]]) -> float | None:
    """Returns the length of the last run in `errors`."""
    for entry in reversed(entries):
        if "started_at" in entry and entry.get("outcome") not in NOT_RUN:
            return seconds_between(entry["started_at"], entry.get("finished_at"))
    return None


def seconds_between(began: str | None, ended: str | None) -> float | None:
    """Returns the seconds between two times as text, as an entry of `errors` has them; None where one is missing or is
    not a time."""
    try:
        start, end = parse_datetime(began or ""), parse_datetime(ended or "")
        return None if start is None or end is None else max((end - start) / timedelta(seconds=1), 0.0)
    except (TypeError, ValueError):
        return None
