"""Costs added up for pages of the admin: by day, model, task, queue and budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from django.conf import settings
from django.db import connections
from django.db.models.functions import TruncDate
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.charts import Bar, Series, chart
from pgonly_django.amounts import shown
from pgonly_django.database.on_django import in_time
from pgonly_django.models.readable import DayField

QUICK_LIMIT, PATIENT_LIMIT = timedelta(milliseconds=150), timedelta(seconds=20)
NEWEST = 20_000  # are added up where all would take longer
GROUPS_SHOWN = 50
TOGETHER = ("day", "model", "task", "queue")  # of budgets there may be one for each project
TITLES = {
    "model": gettext_lazy("By model"),
    "task": gettext_lazy("By task"),
    "queue": gettext_lazy("By queue"),
    "budget": gettext_lazy("By budget"),
}
COLOURS = ("running", "succeeded", "scheduled", "held")  # the classes of those of the dearest models
MILLION = 1_000_000
ONE_DAY = timedelta(days=1)


@dataclass
class Sum:
    usd: Decimal = Decimal(0)
    tokens_in: int = 0
    tokens_out: int = 0
    calls: int = 0

    def add(self, row: dict[str, Any]) -> None:
        self.usd += row["usd_sum"]
        self.tokens_in += row["tokens_in_sum"]
        self.tokens_out += row["tokens_out_sum"]
        self.calls += row["calls"]

    @property
    def cost(self) -> SafeString:
        return formats.money_above_tokens(self.usd, self.tokens_in, self.tokens_out)


def start_of_today() -> datetime:
    now = timezone.localtime() if settings.USE_TZ else timezone.now()
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def start_of(day: date) -> datetime:
    midnight = datetime.combine(day, time.min)
    return timezone.make_aware(midnight) if settings.USE_TZ else midnight


class Sums:
    """The sums of the costs `entries`; without `reads_all` of the newest ones, where all take too long. `by_budget`:
    also by budget. `calls(**query)` returns the address of those of the `entries` that are chosen by their columns."""

    def __init__(
        self, entries: Any, calls: Callable[..., str], *, reads_all: bool = False, by_budget: bool = True
    ) -> None:
        self._calls = calls
        entries = entries.order_by()
        limit, read = PATIENT_LIMIT if reads_all else QUICK_LIMIT, partial(_read, by_budget=by_budget)
        found = in_time(entries.db, limit, lambda: read(entries))
        self.is_complete = found is not None
        if found is None:
            found = in_time(entries.db, PATIENT_LIMIT, lambda: read(_newest(entries)))
        self.rows, self.of_budgets = found or ([], [])
        self.whole = Sum()
        for row in self.rows:
            self.whole.add(row)
        self.total = formats.money(self.whole.usd, self.whole.tokens_in, self.whole.tokens_out)

    def tables(self, *columns: str) -> list[dict[str, Any]]:
        """Returns the sums by each of these, the dearest first. None of models where no call has named one."""
        has_models = any(row["model"] for row in self.rows)
        return [
            {"title": TITLES[column], "groups": self._groups(column)}
            for column in columns
            if column != "model" or has_models
        ]

    def _groups(self, column: str) -> list[dict[str, Any]]:
        """Returns of each its name, which a task has without its module; the whole name; the sum; a bar of its share;
        and the address of its calls."""
        sums = _by(column, self.of_budgets if column == "budget" else self.rows)[:GROUPS_SHOWN]
        whole, label = float(self.whole.usd) or 1.0, formats.short_name if column == "task" else str
        return [
            {
                "label": label(name),
                "name": name,
                "sum": each,
                "share": formats.progress_bar(float(each.usd), whole),
                "url": self._calls(**{column: name}),
            }
            for name, each in sums
        ]

    def chart(self, first: date, last: date) -> dict[str, Any]:
        """Returns the dollars of each day, for includes/chart.html. The dearest models have separate colours."""
        sums = dict(_by("model", self.rows))
        models = [name for name in sums if name][: len(COLOURS)]
        amounts = [sums[name].usd for name in models]
        colours, names, others = [*COLOURS[: len(models)]], [*models], self.whole.usd - sum(amounts)
        if others or not models:
            amounts.append(others)
            colours.append("other" if models else "running")
            names.append(_("other calls") if models else _("all calls"))
        days = {first + timedelta(days=n): [Decimal(0)] * len(names) for n in range((last - first).days + 1)}
        for row in self.rows:
            if row["day"] in days:
                place = models.index(row["model"]) if row["model"] in models else -1
                days[row["day"]][place] += row["usd_sum"]
        series = [*map(Series, colours, names, map(formats.money, amounts))]
        bars = [
            Bar(
                date_format(day, "Y-m-d"),
                [int(usd * MILLION) for usd in of_day],
                [*map(shown, of_day)],
                self._calls(at__gte=start_of(day).isoformat(), at__lt=start_of(day + ONE_DAY).isoformat()),
                _("Opens the calls of this day."),
            )
            for day, of_day in days.items()
        ]
        return chart(series, bars, lambda top: formats.dollars(Decimal(top) / MILLION))


def _by(column: str, rows: Iterable[dict[str, Any]]) -> list[tuple[str, Sum]]:
    sums: dict[str, Sum] = {}
    for row in rows:
        sums.setdefault(row[column], Sum()).add(row)
    return sorted(sums.items(), key=lambda each: -each[1].usd)


def _read(entries: Any, *, by_budget: bool = True) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Reads by day, model, task and queue together, and by budget. PostgreSQL expects as many groups as rows and would
    sort them, which takes four times as long as to hash them. Index: pgonly_cost_at or pgonly_cost_budget, a range."""
    with connections[entries.db].cursor() as cursor:
        cursor.execute("SET LOCAL enable_sort = off; SET LOCAL work_mem = '64MB'")
    together = entries.annotate(day=TruncDate("at", output_field=DayField())).sums(*TOGETHER)
    return list(together), list(entries.sums("budget")[:GROUPS_SHOWN]) if by_budget else []


def _newest(entries: Any) -> Any:
    first = entries.order_by("-at").only("at")[NEWEST - 1 : NEWEST].first()
    return entries if first is None else entries.filter(at__gte=first.at)
