"""Sums of costs for a page: of all rows, or of the newest ones where that takes too long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import OperationalError

from pgonly_django.admin.formats import money
from pgonly_django.database.on_django import time_limit, timed_out

LIMIT = timedelta(seconds=3)
NEWEST = 100_000
GROUPS_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    calls: int
    cost: str


@dataclass(frozen=True, slots=True)
class Sums:
    column: str
    groups: list[Group]
    is_complete: bool


def sums_by(entries: Any, column: str) -> Sums:
    """The dearest groups of `entries` by `column`: "task", "queue" or "budget"."""
    try:
        with time_limit(entries.db, LIMIT):
            return Sums(column, _groups(entries, column), is_complete=True)
    except OperationalError as error:
        if not timed_out(error):
            raise
    newest = entries.model.objects.using(entries.db).filter(
        pk__in=entries.order_by("-at").values("pk")[:NEWEST]
    )
    return Sums(column, _groups(newest, column), is_complete=False)


def _groups(entries: Any, column: str) -> list[Group]:
    rows = entries.order_by().sums(column)[:GROUPS_SHOWN]
    return [
        Group(
            row[column] or "-",
            row["calls"],
            money(row["usd_sum"], row["tokens_in_sum"], row["tokens_out_sum"]),
        )
        for row in rows
    ]
