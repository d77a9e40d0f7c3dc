"""Lists of tables that may hold ten million rows: counts end at a cap, and no page takes long."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import EmptyResultSet
from django.core.paginator import Paginator
from django.db import DataError, OperationalError, ProgrammingError, connections, models
from django.http import HttpRequest
from django.utils.translation import gettext as _

from pgonly_django.database.on_django import time_limit, timed_out

if TYPE_CHECKING:
    QuerySetPaginator = Paginator[Any]
else:
    QuerySetPaginator = Paginator

COUNTED_AT_MOST = 10_000


class CappedPaginator(QuerySetPaginator):
    """Counts no further than COUNTED_AT_MOST, and has no pages beyond it."""

    counted_at_most = COUNTED_AT_MOST

    @cached_property
    def counted(self) -> int:
        """Returns how many there are; where there are more than the cap, one more than that."""
        rows: models.QuerySet[Any] = self.object_list  # type: ignore[assignment] # a queryset here
        return rows.order_by().values("pk")[: self.counted_at_most + 1].count()

    @cached_property
    def count(self) -> int:
        return min(self.counted, self.counted_at_most)

    @property
    def count_label(self) -> str:
        return label_of(self.counted, self.counted_at_most)


def capped_counts(
    alias: str, rows: Mapping[str, models.QuerySet[Any]], cap: int = COUNTED_AT_MOST
) -> dict[str, int]:
    """Counts the rows of each of these, in one statement: at most one more than the cap, which label_of() shows."""
    counts, names, parameters = dict.fromkeys(rows, 0), [], []
    for name, of_name in rows.items():
        limited = of_name.order_by().values("pk")[: cap + 1]
        try:
            sql, values = limited.query.get_compiler(using=alias).as_sql()
        except EmptyResultSet:
            continue
        names.append((name, sql))
        parameters += values
    if names:
        selected = ", ".join(f"(SELECT count(*) FROM ({sql}) AS counted)" for _name, sql in names)
        with connections[alias].cursor() as cursor:
            cursor.execute(f"SELECT {selected}", parameters)
            counts |= zip((name for name, _sql in names), cursor.fetchone() or (), strict=True)
    return counts


def label_of(count: int, cap: int = COUNTED_AT_MOST) -> str:
    return f"{cap:,}+" if count > cap else f"{count:,}"


class TimedChangeList(ChangeList):
    """Reads its rows within a time; after that it shows none of them and says so. An address with a value that no
    statement accepts leads back to the plain list."""

    statement_limit = timedelta(seconds=3)
    scope: int | None = None  # how many of the newest rows are read; None: all
    last: Any = None  # the key up to which they are counted as the newest; None: all
    oldest: Any = None  # the key of the oldest of them; None: there are fewer
    paginator: CappedPaginator
    model_admin: Any

    def tries(self) -> tuple[tuple[int | None, timedelta], ...]:
        """Returns the scopes that are tried one after the other, and how long a statement over each may take."""
        return (None, self.statement_limit), (0, self.statement_limit)

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> models.QuerySet[Any]:
        rows = super().get_queryset(request, exclude_parameters)
        return rows if self.scope is None else self._in_scope(rows)

    def get_results(self, request: HttpRequest) -> None:
        """Reads the rows here, where an error still leads back."""
        try:
            self.read_in_time(request)
        except (DataError, ProgrammingError, ValueError, TypeError, OverflowError) as error:
            if not self.get_filters_params():
                raise
            raise IncorrectLookupParameters from error
        self.model_admin.prepare_rows(request, self.result_list)

    def read_in_time(self, request: HttpRequest) -> None:
        whole = self.queryset
        for scope, limit in self.tries():
            self.scope = scope
            try:
                with time_limit(whole.db, limit):
                    self.oldest = oldest_of_newest(whole, scope, self.last) if scope else None
                    self.queryset = whole if scope is None else self._in_scope(whole)
                    super().get_results(request)
                    if self.has_active_filters or not self.query:  # Django's "Show all" leaves the filters
                        self.full_result_count = self.result_count
                    self.result_list: list[Any] = list(self.result_list)
            except OperationalError as error:
                if not timed_out(error):
                    raise
            else:
                return

    def _in_scope(self, rows: models.QuerySet[Any]) -> models.QuerySet[Any]:
        if not self.scope:
            return rows.none()
        return rows if self.oldest is None else rows.filter(pk__gte=self.oldest)

    @property
    def is_narrowed(self) -> bool:
        """Whether a search or a filter is in force."""
        return bool(self.query or self.has_active_filters)

    @property
    def address_without_filters(self) -> str:
        return "?"

    @property
    def scope_note(self) -> str:
        if self.scope is None:
            return ""
        text = _("This took longer than %g s and was stopped. Search for less, or use fewer filters.")
        return text % self.statement_limit.total_seconds()


def oldest_of_newest(rows: models.QuerySet[Any], count: int, last: Any = None) -> Any:
    """Returns the key of the oldest of the newest `count` rows, up to the key `last`, of the whole table of `rows`;
    None where it has fewer. It is read first, since PostgreSQL does not know how few rows a subquery leaves. Index: the
    primary key."""
    table: models.QuerySet[Any] = models.QuerySet(rows.model, using=rows.db)
    table = table if last is None else table.filter(pk__lte=last)
    return table.order_by("-pk").values_list("pk", flat=True)[count - 1 : count].first()
