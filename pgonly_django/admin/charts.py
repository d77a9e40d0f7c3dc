"""The charts of runs and of waiting times: bars in SVG, which lead to the jobs that finished in their time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from django.db import router
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.functional import Promise, cached_property
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.base import Links
from pgonly_django.models import Job
from pgonly_django.models.job_stats import NUMBERS
from pgonly_django.monitoring.runs import Period, PeriodPart, parts, percentile, times

PERIODS = {
    Period.HOUR: (gettext_lazy("Hour"), gettext_lazy("the last hour")),
    Period.DAY: (gettext_lazy("Day"), gettext_lazy("the last day")),
    Period.WEEK: (gettext_lazy("Week"), gettext_lazy("the last week")),
}
OPENS = gettext_lazy("Opens the jobs that finished then.")
PERCENTILES = {"p50": 0.5, "p95": 0.95}
COUNTED_LATE = timedelta(seconds=15)  # after the end of a run its worker may write the statistics
MICROSECOND = 1e-6
WIDTH, HEIGHT = 640.0, 160.0
GAP = 0.15  # of a bar's width
RECT = '<rect class="pgonly-bar pgonly-{kind}" x="{x}" y="{y}" width="{width}" height="{height}"></rect>'
SMALLEST = 2.0  # so that one failure among ten thousand is seen


class Bar(NamedTuple):
    label: str
    numbers: Sequence[int]  # one above the other
    cells: Sequence[str]  # the same in words
    url: str = ""  # of the rows that it counts
    opens: Promise | str = OPENS  # what a click on it does


class Series(NamedTuple):
    """What has one colour in each bar."""

    colour: str  # a class
    name: str
    sum: str  # of the whole period, in words


class Charts:
    """The charts of one page, over its `?period=`. `queue`: only the runs of this queue."""

    def __init__(self, links: Links, queue: str = "") -> None:
        self.links, self.queue = links, queue
        name = links.request.GET.get("period", "").upper()
        self.period = Period[name] if name in Period.__members__ else Period.HOUR
        self.alias = router.db_for_read(Job)
        self.label, self.url = cache(self._label), cache(self._url)  # both charts have the same

    @cached_property
    def parts(self) -> list[PeriodPart]:
        return parts(self.alias, self.period, self.queue)

    def runs(self) -> dict[str, Any]:
        """Counts the runs that ended, and how they ended."""
        bars = []
        for part in self.parts:
            numbers = [getattr(part.ended, name) for name in NUMBERS]
            bars.append(self._bar(part, numbers, [f"{number:,}" for number in numbers]))
        sums = [f"{sum(numbers):,}" for numbers in zip(*(bar.numbers for bar in bars), strict=True)]
        return self._chart(NUMBERS, bars, sums, "{:,}".format)

    def waits(self) -> dict[str, Any]:
        """Returns how long jobs waited, from ready to the start of the run: half of them less than p50, 95 of 100 less
        than p95."""
        bars = []
        for part in self.parts:
            found = percentiles(part.waiting_times)
            bars.append(self._bar(part, steps(found), [*map(seconds_label, found)]))
        histograms = (part.waiting_times for part in self.parts if part.waiting_times)
        whole = [sum(counts) for counts in zip(*histograms, strict=True)]
        sums = [*map(seconds_label, percentiles(whole))]
        return self._chart(tuple(PERCENTILES), bars, sums, lambda top: formats.duration(top * MICROSECOND))

    def times(self) -> dict[str, Any]:
        """Returns the tasks that ran most often: how many runs ended, and how long they waited and took."""
        rows = [
            {
                "figures": each,
                "task": formats.short_name(each.task) or _("other tasks"),
                "url": self.links.to_list(Job, queue=each.queue, task=each.task) if each.task else "",
                "waited": _pair(each.waiting_p50, each.waiting_p95),
                "took": _pair(each.run_p50, each.run_p95),
            }
            for each in times(self.alias, self.period, self.queue)
        ]
        return {"rows": rows, "within": PERIODS[self.period][1]}

    def _bar(self, part: PeriodPart, numbers: list[int], cells: list[str]) -> Bar:
        """Returns a bar that is a link if jobs ended: a run that is retried ends none."""
        start = part.ended.starts_at
        return Bar(self.label(start), numbers, cells, self.url(start) if part.ended.ended_jobs else "")

    def _chart(
        self, names: Sequence[str], bars: Sequence[Bar], sums: Sequence[str], top_label: Callable[[int], str]
    ) -> dict[str, Any]:
        series = [*map(Series, names, map(_, names), sums)]
        return {
            "periods": [
                (f"?period={each.name.lower()}", PERIODS[each][0], each is self.period) for each in PERIODS
            ],
            "within": PERIODS[self.period][1],
            **chart(series, bars, top_label),
        }

    def _label(self, start: datetime) -> str:
        return date_format(_local(start), "D H:i" if self.period is Period.WEEK else "H:i")

    def _url(self, start: datetime) -> str:
        """Returns the address of the jobs that finished in this part of the period."""
        bounds = {"from": start - COUNTED_LATE, "until": start + self.period.length}
        query = {name: local_text(moment) for name, moment in bounds.items()}
        return self._url_of_finished and f"{self._url_of_finished}&{urlencode(query)}"

    @cached_property
    def _url_of_finished(self) -> str:
        of_queue = {"queue": self.queue} if self.queue else {}
        return self.links.to_list(Job, time="finished", **of_queue)


def _local(moment: datetime) -> datetime:
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment


def local_text(moment: datetime) -> str:
    """Returns a time as in the job list's filter: "2026-03-01T04:00:00", in the current time zone."""
    return f"{_local(moment):%Y-%m-%dT%H:%M:%S}"


def chart(series: Sequence[Series], bars: Sequence[Bar], top_label: Callable[[int], str]) -> dict[str, Any]:
    """Returns a chart for includes/chart.html. Bars of nothing are left out. SVG and rows are made here: a template
    would take five times as long for the bars of an hour."""
    top, width = nice(max(sum(bar.numbers) for bar in bars)), WIDTH / len(bars)
    colours, svg, rows = [each.colour for each in series], [], []
    for place, bar in enumerate(bars):
        if rects := stacked(colours, bar.numbers, place * width, width, top):
            said = [bar.label, *(f"{cell} {each.name}" for cell, each in zip(bar.cells, series, strict=True))]
            svg.append(drawn(rects, bar, ", ".join(said)))
            rows.append(row(bar))
    return {
        "svg": SafeString("".join(svg)),
        "rows": SafeString("".join(rows)),
        "series": series,
        "marks": [*dict.fromkeys(bars[place].label for place in (0, len(bars) // 2, -1))],
        "top": top_label(top),  # what the upper edge stands for
        "view_box": f"0 0 {WIDTH:g} {HEIGHT:g}",
    }


def stacked(
    colours: Sequence[str], numbers: Sequence[int], left: float, width: float, top: int
) -> list[dict[str, str]]:
    """Returns the parts of one bar, from the bottom up. Coordinates as text: a template would write them as the
    reader's language writes numbers."""
    rects = []
    lower = HEIGHT
    for kind, number in zip(colours, numbers, strict=True):
        if number > 0:
            height = min(max(number / top * HEIGHT, SMALLEST), lower)
            lower -= height
            place = {"x": left + width * GAP / 2, "y": lower, "width": width * (1 - GAP), "height": height}
            rects.append({"kind": kind, **{name: f"{value:.2f}" for name, value in place.items()}})
    return rects


def drawn(rects: Sequence[dict[str, str]], bar: Bar, title: str) -> SafeString:
    """Returns the bar, which is a link if it has a `url`."""
    whole = {**rects[0], "kind": "area", "y": "0", "height": "100%"}  # so that a low bar is easily hit
    parts = SafeString("".join(map(RECT.format_map, (whole, *rects))))  # classes and numbers
    if bar.url:
        html = '<a href="{}" tabindex="-1"><title>{}. {}</title>{}</a>'
        return format_html(html, bar.url, title, bar.opens, parts)
    return format_html("<a><title>{}</title>{}</a>", title, parts)


def row(bar: Bar) -> SafeString:
    """Returns the same for the table below the chart."""
    html = '<a href="{}" title="{}">{}</a>'
    label = format_html(html, bar.url, bar.opens, bar.label) if bar.url else bar.label
    cells = format_html_join("", '<td class="pgonly-number">{}</td>', zip(bar.cells, strict=True))
    return format_html('<tr><th scope="row">{}</th>{}</tr>', label, cells)


def nice(number: int) -> int:
    """Returns the next of 1, 2, 5, 10, 20, 50 and so on."""
    power: int = 10 ** (len(str(number)) - 1)
    return next(step * power for step in (1, 2, 5, 10) if step * power >= number)


def percentiles(histogram: Sequence[int]) -> list[float | None]:
    return [percentile(histogram, part) for part in PERCENTILES.values()]


def steps(percentiles: Sequence[float | None]) -> list[int]:
    """Returns how much each is above the one before, in microseconds."""
    whole = [round((each or 0.0) / MICROSECOND) for each in percentiles]
    return [after - before for before, after in zip([0, *whole], whole, strict=False)]


def seconds_label(seconds: float | None) -> str:
    """Formats a percentile, which is not exact: it lies somewhere in a bucket of a histogram."""
    return "-" if seconds is None else f"≈{formats.NO_BREAK}{formats.duration(seconds)}"


def _pair(p50: float | None, p95: float | None) -> str:
    return "-" if p50 is None or p95 is None else f"{seconds_label(p50)} / {formats.duration(p95)}"
