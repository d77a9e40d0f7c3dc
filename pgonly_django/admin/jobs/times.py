"""The filter of the job list by time: enqueued or finished within a period, or between two times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.admin import ModelAdmin
from django.contrib.admin.options import IncorrectLookupParameters
from django.http import HttpRequest
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin.jobs.filters import SelectFilter

COLUMNS = {"enqueued": "enqueued_at", "finished": "finished_at"}
PERIODS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
# So much earlier or later than the row may an id be made, by another machine's clock or in a long statement.
ID_AHEAD = timedelta(minutes=15)
FIRST_ID_AT = datetime(1970, 1, 1, tzinfo=UTC)
LAST_ID_AT = datetime(9999, 1, 1, tzinfo=UTC)


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
        """With two times alone: those between which a job was enqueued."""
        return super().value() or ("enqueued" if self.range_is_given else None)

    @property
    def range_is_given(self) -> bool:
        return any(name in self.used_parameters for name in self.bounds)

    @property
    def start(self) -> str:
        return str(self.used_parameters.get("from", ""))

    @property
    def end(self) -> str:
        return str(self.used_parameters.get("until", ""))

    @property
    def heading(self) -> str:
        if self.value() not in COLUMNS:
            return self.chosen_label
        event = {"enqueued": _("enqueued"), "finished": _("finished")}[str(self.value())]
        ends = ((_("from"), self.start), (_("until"), self.end))
        return " ".join([event, *(f"{word} {text.replace('T', ' ')}" for word, text in ends if text)])

    def narrowed(self, jobs: Any, value: str) -> Any:
        if value not in dict(self.lookup_choices):
            raise IncorrectLookupParameters
        event, _dash, period = value.partition("-")
        if period:
            return between(jobs, event, timezone.now() - PERIODS[period], None)
        return between(jobs, event, _moment(self.start), _moment(self.end))


def between(jobs: Any, event: str, start: datetime | None, end: datetime | None) -> Any:
    """The jobs that were "enqueued" or "finished" from `start` on and before `end`. Ids ascend with the time of the
    enqueue, so the primary key finds the first ones; of the finished ones no later than they were enqueued."""
    column = COLUMNS[event]
    if start is not None:
        jobs = jobs.filter(**{f"{column}__gte": start})
        if event == "enqueued":
            jobs = jobs.filter(pk__gte=_id_at(start, -ID_AHEAD))
    if end is not None:
        jobs = jobs.filter(**{f"{column}__lt": end}, pk__lte=_id_at(end, ID_AHEAD))
    return jobs


def _id_at(moment: datetime, later: timedelta) -> UUID:
    """The lowest id of version 7 at that time."""
    aware = (
        moment if timezone.is_aware(moment) else timezone.make_aware(moment, timezone.get_default_timezone())
    )
    at = min(max(aware, FIRST_ID_AT - min(later, timedelta(0))), LAST_ID_AT - later) + later
    return UUID(int=int(at.timestamp() * 1000) << 80)


def _moment(text: str) -> datetime | None:
    """As a field of the type datetime-local sends it, in the current time zone; None where it is empty."""
    if not text:
        return None
    try:
        moment = parse_datetime(text)
    except ValueError as error:
        raise IncorrectLookupParameters from error
    if moment is None:
        raise IncorrectLookupParameters
    if not settings.USE_TZ:
        return moment if timezone.is_naive(moment) else timezone.make_naive(moment)
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)
