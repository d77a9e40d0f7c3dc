"""The panels of jobs: how many are in each state, how many ended, how long they waited and took."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.charts import Bar, bar_chart
from pgonly_django.admin.overview.overview import Overview, alias_of
from pgonly_django.models import Job
from pgonly_django.monitoring.runs import EndedRuns, Period, throughput, times
from pgonly_django.monitoring.states import jobs_by_state
from pgonly_django.wording import duration

PERIODS = {
    Period.HOUR: gettext_lazy("Hour"),
    Period.DAY: gettext_lazy("Day"),
    Period.WEEK: gettext_lazy("Week"),
}
WITHIN = {
    Period.HOUR: gettext_lazy("the last hour"),
    Period.DAY: gettext_lazy("the last day"),
    Period.WEEK: gettext_lazy("the last week"),
}
# From the bottom of a bar up.
KINDS = {
    "failed": gettext_lazy("failed"),
    "crashed": gettext_lazy("crashed"),
    "retried": gettext_lazy("retried"),
    "interrupted": gettext_lazy("interrupted"),
    "succeeded": gettext_lazy("succeeded"),
}


def states_panel(overview: Overview) -> dict[str, Any]:
    counts = jobs_by_state(alias_of(Job))
    return {
        "states": [
            (state, state.label, count.label, overview.list_url(Job, state__exact=state.value))
            for state, count in counts.items()
        ],
        "all_url": overview.list_url(Job),
    }


def throughput_panel(overview: Overview) -> dict[str, Any]:
    ended = throughput(alias_of(Job), overview.period)
    bars = [Bar(_part_label(part.starts_at, overview.period), _values(part)) for part in ended]
    sums = {kind: sum(getattr(part, kind) for part in ended) for kind in KINDS}
    return {
        "periods": [
            (f"?period={period.name.lower()}", label, period is overview.period)
            for period, label in PERIODS.items()
        ],
        "within": WITHIN[overview.period],
        "chart": bar_chart(bars),
        "kinds": [(kind, label, f"{sums[kind]:,}") for kind, label in KINDS.items()],
        "marks": [bars[0].label, bars[len(bars) // 2].label, bars[-1].label],
        "rows": [(bar.label, [number for _kind, number in bar.values]) for bar in bars if bar.total],
    }


def _values(part: EndedRuns) -> list[tuple[str, int]]:
    return [(kind, getattr(part, kind)) for kind in KINDS]


def _part_label(moment: datetime, period: Period) -> str:
    moment = timezone.localtime(moment) if settings.USE_TZ else moment
    return date_format(moment, "D H:i" if period is Period.WEEK else "H:i")


def times_panel(overview: Overview) -> dict[str, Any]:
    rows = [
        {
            "figures": each,
            "task": formats.short_name(each.task) or _("other tasks"),
            "url": overview.list_url(Job, queue=each.queue, task=each.task) if each.task else "",
            "waited": _pair(each.waiting_p50, each.waiting_p95),
            "took": _pair(each.run_p50, each.run_p95),
        }
        for each in times(alias_of(Job), overview.period)
    ]
    return {"rows": rows, "within": WITHIN[overview.period]}


def _pair(p50: float | None, p95: float | None) -> str:
    if p50 is None or p95 is None:
        return "-"
    return " / ".join(duration(timedelta(seconds=value)) for value in (p50, p95))
