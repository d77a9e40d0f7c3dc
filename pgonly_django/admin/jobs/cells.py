"""The cells of the job list, and the data that they need beside the columns, read for the rows of one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db import router
from django.db.models import Case, F, Func, IntegerField, Q, Sum, TextField, When
from django.db.models.fields.json import HasKey, KeyTransform
from django.db.models.functions import Cast, Length
from django.db.models.lookups import LessThanOrEqual
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from pgonly_django.admin import formats
from pgonly_django.admin.base import Links
from pgonly_django.admin.jobs.answers import for_reader
from pgonly_django.admin.jobs.attempts import cause_of
from pgonly_django.admin.jobs.data import progress_of, progress_of_parts
from pgonly_django.admin.jobs.verbs import is_cancelling
from pgonly_django.database.on_django import in_time
from pgonly_django.database.statement import printable
from pgonly_django.masking import MASK
from pgonly_django.models import CostEntry, Job, State, Wait, Worker
from pgonly_django.models.job import FINISHED, ClockTimestamp, seconds_between
from pgonly_django.models.job_rows import CAUSE
from pgonly_django.models.readable import IntervalField, JsonField
from pgonly_django.monitoring.progress import progress_for_page
from pgonly_django.monitoring.situations import RETRYING, SITUATION, situation_named
from pgonly_django.monitoring.waiting import waits_of
from pgonly_django.monitoring.workers import silences
from pgonly_django.queue.carried import SHOWN
from pgonly_django.tasks.masking import JobMask
from pgonly_django.tasks.metadata import TRACE_HEADERS

# States in which a job's errors are history.
PAST_ERRORS = (State.SUCCEEDED, State.CANCELLED)
ARGUMENTS_READ = 4_000  # bytes of JSON; longer ones are named by their size alone
VALUE_SHOWN = 60
COSTS_LIMIT = timedelta(milliseconds=100)


def _stored_size(column: str) -> Func:
    """SQL for the bytes of a value in its row, where a large one is compressed. PostgreSQL does not read it."""
    return Func(F(column), function="pg_column_size", output_field=IntegerField())


def _unless_large(column: str) -> Case:
    """SQL for the value, or NULL. The length of its text is asked only where its stored size is small."""
    text = Length(Cast(column, TextField()))
    is_short = When(LessThanOrEqual(text, ARGUMENTS_READ), then=F(column))
    is_small = When(LessThanOrEqual(_stored_size(column), ARGUMENTS_READ), then=Case(is_short))
    field: Any = Job._meta.get_field(column)  # noqa: SLF001 - documented
    return Case(is_small, output_field=field)


# PostgreSQL computes these for the rows of one page, and where it sorts, for those that it sorts.
LISTED = {
    # Without the traceback. NULL where it is no object, of which nothing can be subtracted.
    "last_error": Func(
        F("errors"),
        template="""(jsonb_path_query_first(%(expressions)s, '$[last] ? (@.type() == "object")') - 'traceback')""",
        output_field=JsonField(of=CAUSE),
    ),
    **{f"small_{column}": _unless_large(column) for column in ("args", "kwargs", *SHOWN)},
    "stored_size": _stored_size("args") + _stored_size("kwargs"),
    "situation": SITUATION,
    "now": ClockTimestamp(),
}
# How long the last run took, of a job that ended with it.
RUN_TIME = Case(
    When(
        Q(state=State.SUCCEEDED) | Q(HasKey(KeyTransform(-1, "errors"), "started_at")),
        then=F("finished_at") - F("attempted_at"),
    ),
    default=timedelta(0),
    output_field=IntervalField(),
)


def prepare(jobs: Sequence[Any], links: Links, *, sees_data: bool) -> None:
    """Gives `jobs`, which were read with LISTED, what their cells show: `cause`, `call`, `worker_name`, `cost`, the
    event that they `wait` for, and how far the `parts` are that they gather. Without `sees_data` no text that has
    values of the job in it."""
    mask, sees_costs = JobMask(), links.may_view(CostEntry)
    workers = Worker.objects.using(router.db_for_read(Worker))
    ids = {job.worker_id for job in jobs if job.worker_id}
    names = dict(workers.filter(pk__in=ids).values_list("pk", "name")) if ids else {}
    costs = _costs([job.pk for job in jobs]) if sees_costs and jobs else {}
    scheduled = [job.pk for job in jobs if job.state == State.SCHEDULED]
    waits = waits_of(router.db_for_read(Wait), scheduled) if scheduled else []
    wait_of = {wait.job_id: wait for wait in for_reader(waits, links) if wait.key is not None}
    parts = progress_for_page(router.db_for_read(Job), {wait.batch_id for wait in waits if wait.batch_id})
    silent = silences(router.db_for_read(Job), jobs)
    for job in jobs:
        job.sees_data = sees_data
        job.silent_for = silent.get(job.pk)
        has_cause = job.last_error and job.state not in PAST_ERRORS
        job.cause = cause_of(job.last_error, sees_data=sees_data) if has_cause else ""
        job.call = _call_and_carried(job, mask) if sees_data else ""
        job.worker_name = names.get(job.worker_id, "")
        job.cost = costs.get(job.pk)
        job.wait = wait_of.get(job.pk)
        job.parts = parts.get(job.wait.batch_id) if job.wait else None


def _costs(ids: list[UUID]) -> dict[UUID, Decimal]:
    """Returns the dollars of each job; of none where adding them up takes too long. Index: pgonly_cost_job."""
    entries = CostEntry.objects.using(router.db_for_read(CostEntry)).filter(job_id__in=ids)
    sums = entries.order_by().values_list("job_id").annotate(Sum("usd"))
    return in_time(entries.db, COSTS_LIMIT, lambda: dict(sums)) or {}


def _call_and_carried(job: Any, mask: JobMask) -> str:
    """Returns them as in a call, secrets masked, and what it carries after them: 5, project_id=7 · tenant="acme". The
    columns that cannot be read come last, as they stand in the row."""
    shown: dict[str, Any] = {}
    for name in SHOWN:
        value = mask.value(getattr(job, f"small_{name}")) or {}
        shown |= value if isinstance(value, dict) else {name: value}
    shown = {name: value for name, value in shown.items() if name not in TRACE_HEADERS}
    odd = [f"{name}: {formats.brief(str(value), VALUE_SHOWN)}" for name, value in mask.odd(job).items()]
    return " · ".join(filter(None, (_call(job, mask), ", ".join(_named(shown)), *odd)))


def _call(job: Any, mask: JobMask) -> str:
    if job.small_args is None or job.small_kwargs is None:
        return _("too large for the list: %s") % filesizeformat(job.stored_size)
    args, kwargs = mask.args(job.task, job.small_args), mask.value(job.small_kwargs)
    return ", ".join([*map(_compact, args), *_named(kwargs)])


def _named(values: dict[str, Any]) -> list[str]:
    return [f"{name}={_compact(value)}" for name, value in values.items()]


def _compact(value: Any) -> str:
    text = printable(json.dumps(value, ensure_ascii=False)).replace(f'"{MASK}"', MASK)
    return formats.brief(text, VALUE_SHOWN)


@admin.display(description=gettext_lazy("state"))
def state_badge(job: Any) -> SafeString:
    """Shows the situation of a job that was read with SITUATION; of a running one whose worker is silent, that, where
    `silent_for` is known."""
    if (silent := getattr(job, "silent_for", None)) is not None:
        return formats.badge(
            "dead", _("Silent"), _("Its worker has been silent for %s.") % formats.whole(silent)
        )
    if is_cancelling(job):
        return formats.badge("cancelling", _("Cancelling"), _("It was asked to stop."))
    situation = situation_named(job)
    return formats.badge(situation.name, str(situation.label))


@admin.display(description=gettext_lazy("task"))
def task_name(job: Any) -> SafeString:
    """Shows its short name, and in the same line why its last attempt ended."""
    html = '<a class="pgonly-name" href="{}" title="{} {}">{}</a>{}'
    return format_html(html, job.address, job.task, job.pk, formats.short_name(job.task), _aside(job.cause))


@admin.display(description=gettext_lazy("arguments"))
def arguments(job: Any) -> SafeString:
    return formats.one_line(job.call)


@admin.display(description=gettext_lazy("time"), ordering="finished_at")
def time_cell(job: Any) -> SafeString:
    """Shows the time that matters in its state, and beside it another one. JobChangeList knows the sorting."""
    match job.state:
        case State.RUNNING:
            return _since(job.attempted_at, _("for %s")) + _aside(_waited(job))
        case State.READY:
            return _since(job.waiting_since, _("waits %s"))
        case State.SCHEDULED if job.wait is not None:
            text = _("answered: %s") if job.wait.is_answered else _("for %s")
            name = _("the jobs that it gathers") if job.wait.batch_id else job.wait.question or job.wait.key
            asked = _aside(text % name)
            return _since(job.wait.began_at, _("waits %s")) + asked
        case State.SCHEDULED:
            time = formats.until(job.run_at, _("late by %s"))
            if situation_named(job) is RETRYING:
                attempts = {"number": job.attempt + 1, "of": job.max_attempts}
                return time + _aside(_("attempt %(number)d of %(of)d") % attempts)
            return time
        case State.HELD:
            return formats.one_line(_("by %s") % job.held_by)
    return _ago(job.finished_at)


@admin.display(description=gettext_lazy("enqueued"), ordering="pk")
def enqueued(job: Job) -> SafeString:
    return _ago(job.enqueued_at)


def _aside(text: str) -> SafeString:
    return SafeString(" ") + formats.one_line(text, "pgonly-quiet")


def _since(moment: datetime | None, text: str) -> SafeString:
    return SafeString("") if moment is None else formats.time_tag(moment, text % formats.age(moment))


def _ago(moment: datetime | None) -> SafeString:
    if moment is None:
        return SafeString("")
    return formats.time_tag(moment, _("%s ago") % formats.about(timezone.now() - moment))


def _waited(job: Job) -> str:
    if job.attempted_at is None or job.attempted_at < job.waiting_since:
        return ""
    return _("waited %s") % formats.duration(job.attempted_at - job.waiting_since)


@admin.display(description=gettext_lazy("took"), ordering=RUN_TIME)
def took(job: Any) -> str:
    """Shows "" where no run is known."""
    if job.state not in FINISHED:
        return ""
    if job.state == State.SUCCEEDED:
        seconds = job.run_seconds
    else:  # None where the last entry of `errors` is a person's decision, which may come much later than the run
        last = job.last_error or {}
        seconds = seconds_between(last.get("started_at"), last.get("finished_at"))
    return "" if seconds is None else formats.duration(seconds)


@admin.display(description=gettext_lazy("queue"))
def queue(job: Job) -> SafeString:
    return formats.one_line(job.queue)


@admin.display(description=gettext_lazy("attempts"))
def attempts(job: Job) -> SafeString:
    """Shows "2/4", and beside it how many interruptions and crashes there were, if any."""
    counts = {
        ngettext("%d interruption", "%d interruptions", job.interruptions): job.interruptions,
        ngettext("%d crash", "%d crashes", job.crashes): job.crashes,
    }
    told = ", ".join(label % count for label, count in counts.items() if count)
    return format_html("{}/{}{}", job.attempt, job.max_attempts, _aside(told))


@admin.display(description=gettext_lazy("worker"))
def worker(job: Any) -> SafeString:
    if not job.worker_id:
        return SafeString("")
    name = job.worker_name or _("unknown")
    return format_html('<a href="?worker={}" title="{}">{}</a>', job.worker_id, name, name)


@admin.display(description=gettext_lazy("progress"))
def progress_cell(job: Any) -> SafeString:
    """Shows a bar with its percentage, the figures and the message; nothing after the job has succeeded."""
    own = progress_of(job, sees_data=job.sees_data, is_silent=job.silent_for is not None)
    progress = progress_of_parts(job.parts) if job.parts else own
    if progress is None or job.state == State.SUCCEEDED:
        return SafeString("")
    told = " · ".join(filter(None, (progress["figures"], progress["message"])))
    if not progress["bar"]:
        return formats.one_line(told)
    return format_html("{} {} %{}", progress["bar"], progress["percent"], _aside(told))


@admin.display(description=gettext_lazy("cost"))
def cost(job: Any) -> SafeString:
    return formats.money(job.cost)


# Columns that a page leaves out where none of its jobs has anything in them. They come last, and of them the one that
# sorts first: `o` counts columns.
OPTIONAL = (took, worker, progress_cell, cost)
