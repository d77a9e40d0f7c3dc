"""Fields that read every value that PostgreSQL can hold, also one that Python cannot hold or that no code of ours
writes. So one odd row breaks no list, no page and no command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models.fields.json import KeyTransform
from django.utils.dateparse import parse_datetime

# A day within Python's own bounds, so that every time zone can show them.
FIRST, LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
# PostgreSQL counts a month as 30 days and psycopg a year as 365: by both counts this fits into a timedelta.
LONGEST_INTERVAL = "980000000 days"
LARGEST_FIGURE = 1e300  # so that figures can be divided by each other
MOST_SECONDS = 1e13  # 317,000 years: a timedelta can hold it
MOST_USD = 10**12

# What our code writes into a JSON column: values of a type, lists of a shape, objects whose members have shapes where
# they are there, or what a function accepts. None: any value.
Shape = type | list["Shape"] | dict[str, "Shape"] | Callable[[Any], bool] | None


class OddValue(str):
    """The text of a JSON value that Python cannot load, or of another shape than our code writes. To code that reads
    the column it is an empty list or dict. It is saved again as it stands in the row."""

    __slots__ = ()

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    keys = values = items = __reversed__ = __iter__

    def get(self, _key: str, default: Any = None) -> Any:
        return default


def odd_values(row: models.Model) -> dict[str, OddValue]:
    """Returns what cannot be read of the row, by the names of its columns and annotations."""
    return {name: value for name, value in vars(row).items() if isinstance(value, OddValue)}


def read_json(text: str, shape: Shape = None) -> Any:
    """Returns the value, or an OddValue."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits, or thousands of levels
        return OddValue(text)
    return value if fits(value, shape) else OddValue(text)


def fits(value: Any, shape: Shape) -> bool:
    if shape is None:
        return True
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(
            value.get(name) is None or fits(value[name], inner) for name, inner in shape.items()
        )
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
    return isinstance(value, shape) if isinstance(shape, type) else shape(value)


def is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < LARGEST_FIGURE


def is_time(value: Any) -> bool:
    """Returns whether it is a time as text, with its zone, that every zone can show."""
    try:
        moment = parse_datetime(value)
    except (TypeError, ValueError):
        return False
    return moment is not None and moment.tzinfo is not None and FIRST <= moment <= LAST


class _AsDjangos:
    """Migrations name Django's own field: the column is the same."""

    def deconstruct(self: Any) -> Any:
        name, _path, args, kwargs = super().deconstruct()  # type: ignore[misc] # of a Field
        kwargs.pop("encoder", None)
        return name, f"django.db.models.{self.get_internal_type()}", args, kwargs


class _Bounded(_AsDjangos):
    """Reads what is beyond the bounds as the nearest that is within. Filters, the order and indexes see the column as
    it is, except where values() or values_list() reads the column that it orders by."""

    bounds: tuple[str, object, object]  # with which the names of its functions begin, and both in SQL

    def select_format(self, compiler: object, sql: str, params: Any) -> tuple[str, Any]:  # noqa: ARG002 - Django's
        kind, least, greatest = self.bounds
        # Of NULL these functions, which min() and max() are made of, are NULL, unlike LEAST and GREATEST. NaN is larger
        # than all numbers.
        return f"{kind}larger('{least}', {kind}smaller('{greatest}', {sql}))", params


class _TimestampField(_Bounded, models.DateTimeField):  # type: ignore[type-arg] # generic in the stubs only
    bounds = "timestamptz_", FIRST, LAST


class DayField(_Bounded, models.DateField):  # type: ignore[type-arg] # generic in the stubs only
    bounds = "date_", FIRST, LAST


class _IntervalField(_Bounded, models.DurationField):  # type: ignore[type-arg] # generic in the stubs only
    bounds = "interval_", f"-{LONGEST_INTERVAL}", LONGEST_INTERVAL


class _NumberField(_Bounded, models.FloatField):  # type: ignore[type-arg] # generic in the stubs only
    bounds = "float8", -MOST_SECONDS, MOST_SECONDS


class _AmountField(_Bounded, models.DecimalField):  # type: ignore[type-arg] # generic in the stubs only
    bounds = "numeric_", -MOST_USD, MOST_USD


class _Encoder(json.JSONEncoder):
    def encode(self, o: Any) -> str:
        return str(o) if isinstance(o, OddValue) else super().encode(o)


class JsonField(_AsDjangos, models.JSONField):
    """A JSONField whose value is an OddValue where it has another shape than `of`."""

    def __init__(self, *args: Any, of: Shape = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.of, self.encoder = of, _Encoder

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Any:  # noqa: ARG002 - Django's
        if value is None or (value == "null" and self.null):
            return None
        return read_json(value, None if isinstance(expression, KeyTransform) else self.of)


if TYPE_CHECKING:  # mypy's plugin knows the types of Django's own fields, with and without null=True
    TimestampField, IntervalField = models.DateTimeField, models.DurationField
    NumberField, AmountField = models.FloatField, models.DecimalField
else:
    TimestampField, IntervalField = _TimestampField, _IntervalField
    NumberField, AmountField = _NumberField, _AmountField
