"""The panels of jobs: how many are in each state, how many ended, as a bar chart, how long they waited and took."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.overview.overview import Overview, alias_of
from pgonly_django.models import Job
from pgonly_django.models.job_stats import NUMBERS
from pgonly_django.monitoring.queues import jobs_by_state
from pgonly_django.monitoring.runs import Period, throughput, times
from pgonly_django.wording import duration

PERIODS = {
    Period.HOUR: (gettext_lazy("Hour"), gettext_lazy("the last hour")),
    Period.DAY: (gettext_lazy("Day"), gettext_lazy("the last day")),
    Period.WEEK: (gettext_lazy("Week"), gettext_lazy("the last week")),
}
WIDTH, HEIGHT = 640.0, 160.0
GAP = 0.15  # of a bar's width
SMALLEST = 2.0  # so that one failure among ten thousand is seen


def states_panel(overview: Overview) -> dict[str, Any]:
    counts = jobs_by_state(alias_of(Job))
    return {
        "states": [
            (state, state.label, count.label, overview.to_list(Job, state__exact=state.value))
            for state, count in counts.items()
        ],
    }


def throughput_panel(overview: Overview) -> dict[str, Any]:
    ended = throughput(alias_of(Job), overview.period)
    labels = [_part_label(part.starts_at, overview.period) for part in ended]
    numbers = [[getattr(part, kind) for kind in NUMBERS] for part in ended]
    sums = map(sum, zip(*numbers, strict=True))
    return {
        "periods": [
            (f"?period={period.name.lower()}", label, period is overview.period)
            for period, (label, _within) in PERIODS.items()
        ],
        "within": PERIODS[overview.period][1],
        "chart": bar_chart(numbers),
        "kinds": [(kind, _(kind), f"{total:,}") for kind, total in zip(NUMBERS, sums, strict=True)],
        "marks": [labels[0], labels[len(labels) // 2], labels[-1]],
        "rows": [(label, of_part) for label, of_part in zip(labels, numbers, strict=True) if any(of_part)],
    }


def _part_label(moment: datetime, period: Period) -> str:
    moment = timezone.localtime(moment) if settings.USE_TZ else moment
    return date_format(moment, "D H:i" if period is Period.WEEK else "H:i")


def bar_chart(bars: list[list[int]]) -> dict[str, Any]:
    """Bars as the template draws them, in SVG. Each has a number for each of NUMBERS, the classes of its colours."""
    top = nice(max((sum(numbers) for numbers in bars), default=0))
    width = WIDTH / max(len(bars), 1)
    return {
        "top": top,  # what the upper edge stands for
        "bars": [_bar(numbers, place * width, width, top) for place, numbers in enumerate(bars)],
        "view_box": f"0 0 {WIDTH:g} {HEIGHT:g}",
    }


def _bar(numbers: list[int], left: float, width: float, top: int) -> list[dict[str, str]]:
    """Coordinates as text: a template would write them as the reader's language writes numbers."""
    rects = []
    lower = HEIGHT
    for kind, number in zip(NUMBERS, numbers, strict=True):
        if number > 0:
            height = min(max(number / top * HEIGHT, SMALLEST), lower)
            lower -= height
            place = {"x": left + width * GAP / 2, "y": lower, "width": width * (1 - GAP), "height": height}
            rects.append({"kind": kind, **{name: f"{value:.2f}" for name, value in place.items()}})
    return rects


def nice(number: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on."""
    power: int = 10 ** (len(str(number)) - 1)
    return next(step * power for step in (1, 2, 5, 10) if step * power >= number)


def times_panel(overview: Overview) -> dict[str, Any]:
    rows = [
        {
            "figures": each,
            "task": formats.short_name(each.task) or _("other tasks"),
            "url": overview.to_list(Job, queue=each.queue, task=each.task) if each.task else "",
            "waited": _pair(each.waiting_p50, each.waiting_p95),
            "took": _pair(each.run_p50, each.run_p95),
        }
        for each in times(alias_of(Job), overview.period)
    ]
    return {"rows": rows, "within": PERIODS[overview.period][1]}


def _pair(p50: float | None, p95: float | None) -> str:
    return "-" if p50 is None or p95 is None else f"{duration(p50)} / {duration(p95)}"
