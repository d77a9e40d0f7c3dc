"""Fields that read every value that PostgreSQL can hold, also those that Python cannot: one odd row breaks no list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.db import models
from psycopg.types.json import Jsonb

# A day within Python's own bounds, so that every time zone can show them.
FIRST, LAST = "'0001-01-02 00:00+00'", "'9999-12-30 00:00+00'"
# PostgreSQL counts a month as 30 days and psycopg a year as 365: by both counts this fits into a timedelta.
LONGEST = "'980000000 days'"


class _TimestampField(models.DateTimeField):  # type: ignore[type-arg] # generic in the stubs only
    """A DateTimeField. A time that is infinite, BC or after the year 9999 is read as Python's first or last day.
    Filters and the order see the column as it is, with one exception: where values() or values_list() reads the column
    that it orders by, it orders by the bounded time, without an index."""

    def select_format(self, compiler: object, sql: str, params: Sequence[Any]) -> tuple[str, Any]:  # noqa: ARG002 - Django's
        bounded = f"greatest({FIRST}::timestamptz, least({LAST}::timestamptz, {sql}))"  # of NULL: not NULL
        return f"CASE WHEN {sql} IS NOT NULL THEN {bounded} END", (*params,) * 2

    def deconstruct(self) -> Any:
        return as_djangos(super().deconstruct(), "DateTimeField")


class _IntervalField(models.DurationField):  # type: ignore[type-arg] # generic in the stubs only
    """A DurationField. An interval that is longer than a timedelta can be is read as 980,000,000 days."""

    def select_format(self, compiler: object, sql: str, params: Sequence[Any]) -> tuple[str, Any]:  # noqa: ARG002 - Django's
        bounded = f"greatest(-{LONGEST}::interval, least({LONGEST}::interval, {sql}))"  # of NULL: not NULL
        return f"CASE WHEN {sql} IS NOT NULL THEN {bounded} END", (*params,) * 2

    def deconstruct(self) -> Any:
        return as_djangos(super().deconstruct(), "DurationField")


class UnreadableJson(str):
    """The text of a JSON value that this Python cannot load: numbers of more than 4,300 digits, thousands of levels."""

    __slots__ = ()


def entries_of(column: Any) -> list[dict[str, Any]]:
    """The objects in a list of objects; what another program has written there instead is left out."""
    return [entry for entry in column if isinstance(entry, dict)] if isinstance(column, list) else []


class _ReadableJsonField(models.JSONField):
    """A JSONField whose value is an UnreadableJson where it cannot be loaded, and is saved again as it was."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        try:
            return super().from_db_value(value, expression, connection)
        except (ValueError, RecursionError):
            return UnreadableJson(value)

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        """The text of an UnreadableJson is JSON already; to encode it again would make a JSON string of it."""
        if isinstance(value, UnreadableJson):
            return Jsonb(value, dumps=str)
        return super().get_db_prep_value(value, connection, prepared)

    def deconstruct(self) -> Any:
        return as_djangos(super().deconstruct(), "JSONField")


def as_djangos(deconstructed: Any, name: str) -> Any:
    """Migrations name Django's own field: the column is the same."""
    own_name, _path, args, kwargs = deconstructed
    return own_name, f"django.db.models.{name}", args, kwargs


if TYPE_CHECKING:  # mypy's plugin knows the types of Django's own fields, with and without null=True
    TimestampField, IntervalField = models.DateTimeField, models.DurationField
    ReadableJsonField = models.JSONField
else:
    TimestampField, IntervalField, ReadableJsonField = _TimestampField, _IntervalField, _ReadableJsonField
