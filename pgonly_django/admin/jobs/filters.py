"""The filters of the job list, by its columns and by time. The names that they offer come from queue/known_names.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.admin import ChoicesFieldListFilter, ModelAdmin, SimpleListFilter
from django.contrib.admin.options import IncorrectLookupParameters
from django.db import router
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Greatest, Now
from django.db.models.lookups import LessThan
from django.http import HttpRequest
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin.formats import duration, short_name
from pgonly_django.models import Checkpoint, Job, State, Step, Worker
from pgonly_django.models.job_rows import IS_LIMITED, IS_READY, IS_SUSPECT
from pgonly_django.monitoring.situations import SITUATIONS
from pgonly_django.queue.enqueue import aware
from pgonly_django.queue.known_names import KNOWN, known_names

WORKERS_OFFERED = 100
NO_PROGRESS_FOR = timedelta(minutes=10)
COLUMNS = {"enqueued": "enqueued_at", "finished": "finished_at"}
PERIODS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
# So much earlier or later than the row may an id be made, by another machine's clock or in a long statement.
ID_AHEAD = timedelta(minutes=15)
FIRST_ID_AT = datetime(1970, 1, 1, tzinfo=UTC)
LAST_ID_AT = datetime(9999, 1, 1, tzinfo=UTC)


class JobStateFilter(ChoicesFieldListFilter):
    """The situation, which people choose by the tabs above the list."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job] | None:
        chosen = SITUATIONS.get(request.GET.get("state__exact", ""))
        return queryset.filter(chosen.rows) if chosen else super().queryset(request, queryset)


class SelectFilter(SimpleListFilter):
    """A filter that is shown as a field of the form above the list."""

    is_rare = False  # it stands under "More filters"
    bounds: tuple[str, ...] = ()  # the parameters of further fields

    @property
    def opens_more(self) -> bool:
        """Whether a field under "More filters" is filled in."""
        return self.is_rare and bool(self.value())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        value = self.value()
        if value and value not in dict(self.lookup_choices):
            raise IncorrectLookupParameters
        return self.narrowed(queryset, value) if value else queryset

    def narrowed(self, jobs: Any, value: str) -> Any:
        raise NotImplementedError

    @property
    def heading(self) -> str:
        """What the choice adds to the title of the list, as "queue ai"; "" without a choice."""
        return f"{self.title} {self.chosen_label}" if self.value() else ""

    @property
    def chosen_label(self) -> str:
        return next((str(label) for value, label in self.lookup_choices if value == self.value()), "")


class KnownValueFilter(SelectFilter):
    """Offers the names that jobs have in a column, and the one that is chosen."""

    label: staticmethod[[str], str] = staticmethod(str)

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        values = set(known_names(router.db_for_read(Job), KNOWN[str(self.parameter_name)]))
        chosen = self.value()
        return [(value, self.label(value)) for value in sorted(values | ({chosen} if chosen else set()))]

    def narrowed(self, jobs: Any, value: str) -> Any:
        return jobs.filter(**{str(self.parameter_name): value})

    def has_output(self) -> bool:
        return len(self.lookup_choices) > 1 or self.value() is not None


class QueueFilter(KnownValueFilter):
    title = gettext_lazy("queue")
    parameter_name = "queue"


class TaskFilter(KnownValueFilter):
    title = gettext_lazy("task")
    parameter_name = "task"
    label = staticmethod(short_name)


class ErrorFilter(KnownValueFilter):
    """The class of the last error, of failed jobs alone: their index is small."""

    title = gettext_lazy("failed with")
    parameter_name = "error"
    label = staticmethod(short_name)

    def narrowed(self, jobs: Any, value: str) -> Any:
        return jobs.failed_with(value)


class WorkerFilter(SelectFilter):
    """The worker that runs a job or ran it last. Offers those that have not stopped, and the one that is chosen."""

    title = gettext_lazy("worker")
    parameter_name = "worker"
    is_rare = True

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        workers = Worker.objects.using(router.db_for_read(Worker))
        offered = Q(stopped_at=None) | Q(pk=self._id()) if self.value() else Q(stopped_at=None)
        rows = workers.filter(offered).order_by("-heartbeat_at").values_list("pk", "name")
        names = {str(worker_id): name for worker_id, name in rows[:WORKERS_OFFERED]}
        if chosen := self.value():
            names.setdefault(chosen, chosen)
        return sorted(names.items(), key=lambda choice: choice[1])

    def narrowed(self, jobs: Any, value: str) -> Any:
        return jobs.filter(worker_id=self._id())

    def _id(self) -> UUID:
        try:
            return UUID(self.value())
        except ValueError as error:
            raise IncorrectLookupParameters from error


class LateFilter(SelectFilter):
    """Jobs that could have started long ago: ready, or due by their time, for longer than this number of seconds."""

    title = gettext_lazy("late")
    parameter_name = "late"
    is_rare = True
    choices_in_seconds = (60, 600, 3600)

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        label = _("for more than %s")
        return [(str(seconds), label % duration(seconds)) for seconds in self.choices_in_seconds]

    def narrowed(self, jobs: Any, value: str) -> Any:
        """Filters by parts, each in the words of an index: pgonly_job_ready, _suspect, _limited and _scheduled."""
        before = Now() - timedelta(seconds=int(value))
        ready = Q(ready_at__lt=before) & (Q(ready_again_at=None) | Q(ready_again_at__lt=before))
        due = Q(state=State.SCHEDULED, run_at__lt=before)
        return jobs.filter(IS_READY & ready | IS_SUSPECT & ready | IS_LIMITED & ready | due)


class StuckFilter(SelectFilter):
    """Running jobs whose lease has ended, or that have for long reported nothing, saved no checkpoint and finished no
    step. Index: pgonly_job_running."""

    title = gettext_lazy("stuck")
    parameter_name = "stuck"
    is_rare = True

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [
            ("any", _("for any reason")),
            ("lease", _("after the end of its lease")),
            ("progress", _("without progress for %s") % duration(NO_PROGRESS_FOR)),
        ]

    def narrowed(self, jobs: Any, value: str) -> Any:
        is_over = Q(lease_expires_at__lt=Now())
        # The newest one of each job alone: EXISTS would make PostgreSQL read all steps of all jobs.
        saved = Checkpoint.objects.filter(job=OuterRef("pk")).values("saved_at")[:1]
        steps = Step.objects.filter(job=OuterRef("pk")).order_by("-finished_at").values("finished_at")[:1]
        # Of those that are: GREATEST leaves NULL out.
        last_sign = Greatest("attempted_at", "reported_at", Subquery(saved), Subquery(steps))
        is_silent = Q(LessThan(last_sign, Now() - NO_PROGRESS_FOR))
        conditions = {"any": is_over | is_silent, "lease": is_over, "progress": is_silent}
        return jobs.running().filter(conditions[value])


class TimeFilter(SelectFilter):
    title = gettext_lazy("time")
    parameter_name = "time"
    bounds = ("from", "until")

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        given = {name: params.pop(name)[-1] for name in self.bounds if name in params}
        super().__init__(request, params, model, model_admin)
        self.used_parameters |= {name: text for name, text in given.items() if text}

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [
            ("enqueued-hour", _("enqueued in the last hour")),
            ("enqueued-day", _("enqueued in the last day")),
            ("enqueued-week", _("enqueued in the last week")),
            ("enqueued", _("enqueued between")),
            ("finished-hour", _("finished in the last hour")),
            ("finished-day", _("finished in the last day")),
            ("finished-week", _("finished in the last week")),
            ("finished", _("finished between")),
        ]

    def expected_parameters(self) -> list[str | None]:
        return [self.parameter_name, *self.bounds]

    def value(self) -> str | None:
        """Returns it; two times alone are those between which a job was enqueued."""
        return super().value() or ("enqueued" if self.opens_more else None)

    @property
    def opens_more(self) -> bool:
        """Whether there is one of the two times."""
        return any(name in self.used_parameters for name in self.bounds)

    @property
    def start(self) -> str:
        return str(self.used_parameters.get("from", ""))

    @property
    def end(self) -> str:
        return str(self.used_parameters.get("until", ""))

    @property
    def last_id(self) -> UUID | None:
        """Returns the id of a job that was enqueued at the end of the time; None without one."""
        end = _moment(self.end) if self.value() in COLUMNS else None
        return None if end is None else _id_at(end, timedelta(0))

    @property
    def heading(self) -> str:
        if self.value() not in COLUMNS:
            return self.chosen_label
        event = _("finished") if self.value() == "finished" else _("enqueued")
        ends = ((_("from"), self.start), (_("until"), self.end))
        return " ".join([event, *(f"{word} {text.replace('T', ' ')}" for word, text in ends if text)])

    def narrowed(self, jobs: Any, value: str) -> Any:
        event, _dash, period = value.partition("-")
        if period:
            return between(jobs, event, timezone.now() - PERIODS[period], None)
        return between(jobs, event, _moment(self.start), _moment(self.end))


# The fields of the form, in their order.
FORM_FILTERS = (QueueFilter, TaskFilter, ErrorFilter, WorkerFilter, TimeFilter, LateFilter, StuckFilter)


def between(jobs: Any, event: str, start: datetime | None, end: datetime | None) -> Any:
    """Returns the jobs that were "enqueued" or "finished" from `start` on and before `end`. Ids ascend with the time of
    the enqueue, so the primary key finds the first ones; of the finished ones no later than they were enqueued."""
    column = COLUMNS[event]
    if start is not None:
        jobs = jobs.filter(**{f"{column}__gte": start})
        if event == "enqueued":
            jobs = jobs.filter(pk__gte=_id_at(start, -ID_AHEAD))
    if end is not None:
        jobs = jobs.filter(**{f"{column}__lt": end}, pk__lte=_id_at(end, ID_AHEAD))
    return jobs


def _id_at(moment: datetime, later: timedelta) -> UUID:
    """Returns the lowest id of version 7 at that time."""
    at = min(max(aware(moment), FIRST_ID_AT - min(later, timedelta(0))), LAST_ID_AT - later) + later
    return UUID(int=int(at.timestamp() * 1000) << 80)


def _moment(text: str) -> datetime | None:
    """Reads a field of the type datetime-local, in the current time zone; None where it is empty."""
    if not text:
        return None
    try:
        moment = parse_datetime(text)
    except ValueError as error:
        raise IncorrectLookupParameters from error
    if moment is None or timezone.is_aware(moment):
        raise IncorrectLookupParameters
    return timezone.make_aware(moment) if settings.USE_TZ else moment
