"""Compares what two rounds have left in the databases, in words.

Rows that the test had prepared are compared by their primary key. New rows may have other keys, so they are compared as
a bag: how many there are with the same values. A reference to one new row counts as one to another. What already
differs between two runs without a kill (the time of a save, a random id) is compared as empty or not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db import DEFAULT_DB_ALIAS, connections, models

from pgonly_django.database.on_django import all_rows
from pgonly_django.models import CacheEntry, DurableCacheEntry, Job

JOBS, CACHE, RESULT, STATE = "enqueued jobs", "cache entries", "result", "state()"
JOB_FIELDS = ("task", "queue", "priority", "args", "kwargs")
CACHE_FIELDS = ("key", "codec", "value", "number", "tags")
LIVE_ENTRY = "num_nonnulls(value, number) > 0 AND coalesce(expires_at > clock_timestamp(), true)"
# Of the tables of ours that are compared: how a message calls them, their fields, and which rows.
OF_OURS: dict[type[models.Model], tuple[str, Collection[str], str]] = {
    Job: (JOBS, JOB_FIELDS, "true"),
    CacheEntry: (CACHE, CACHE_FIELDS, LIVE_ENTRY),
    DurableCacheEntry: (f"{CACHE} in the durable table", CACHE_FIELDS, LIVE_ENTRY),
}
IS_A_TABLE = "SELECT FROM pg_class WHERE oid = to_regclass(%s) AND relkind IN ('r', 'p')"
SHOWN, SHOWN_CHARACTERS = 3, 300  # rows of a model in a message, and how much of a value
FIELD_PARTS = 3  # app, model, field

RowState = dict[str, Any]
RowStates = dict[str, dict[str, RowState]]  # by a label, then by the primary key as text
Field = tuple[str, str]  # a label, the name of a field


def ignored_labels(given: Iterable[Any]) -> frozenset[str]:
    """Returns the labels that are not read: those of models and groups, and fields as "app.Model.field". Raises
    ValueError for a label that is none of these."""
    return frozenset(map(_ignored_label, given))


def _ignored_label(given: Any) -> str:
    groups = {"jobs": JOBS, "cache": CACHE, "result": RESULT}
    if given in groups:
        return groups[given]
    try:
        if isinstance(given, str) and given.count(".") == FIELD_PARTS - 1:
            label, _, field = given.rpartition(".")
            meta = _meta(apps.get_model(label))
            return f"{meta.label}.{meta.get_field(field).name}"
        return str(_meta(apps.get_model(given) if isinstance(given, str) else given).label)
    except (LookupError, ValueError, AttributeError, FieldDoesNotExist) as error:
        raise ValueError(
            f'ignore takes models ("shop.Order"), fields ("shop.Order.sent_at"), "result", "jobs" and "cache", got '
            f"{given!r}: {error}"
        ) from None


class Tables:
    """The tables of the project's models and some of ours, in the databases that the test may use."""

    def __init__(self, aliases: Iterable[str], ignored: Collection[str]) -> None:
        self._selects: dict[str, list[str]] = {}  # by alias
        self._keys: dict[str, list[str]] = {}  # by label: the columns of the primary key
        # By label and column: the field, and the label of the rows that it names as a foreign key.
        self._fields: dict[str, dict[str, tuple[str, str | None]]] = {}
        for alias in aliases:
            if connections[alias].vendor == "postgresql":
                for model in apps.get_models(include_auto_created=True):
                    self._add(alias, model, ignored)
        self.prepared: RowStates = {label: {} for label in self._fields}
        self.prepared = self.read()

    def read(self) -> RowStates:
        rows: RowStates = {label: {} for label in self._fields}
        for alias, selects in self._selects.items():
            for label, text in all_rows(alias, " UNION ALL ".join(selects)):
                row = json.loads(text, parse_float=_rounded)
                rows[label][",".join(str(row[column]) for column in self._keys[label])] = {
                    name: self._value(row[column], target)
                    for column, (name, target) in self._fields[label].items()
                }
        return rows

    def _value(self, value: Any, target: str | None) -> Any:
        if value is None or target is None:
            return value
        return f"{target} {value}" if str(value) in self.prepared.get(target, ()) else f"a new {target}"

    def _add(self, alias: str, model: type[models.Model], ignored: Collection[str]) -> None:
        meta = _meta(model)
        label, names, condition = OF_OURS.get(model, (meta.label, None, "true"))
        group = CACHE if label.startswith(CACHE) else label
        is_left_out = meta.app_label == "pgonly_django" and model not in OF_OURS
        table = connections[alias].ops.quote_name(meta.db_table)
        if is_left_out or meta.proxy or group in ignored or not all_rows(alias, IS_A_TABLE, [table]):
            return
        label = _labelled(label, alias)
        self._keys[label] = [str(field.column) for field in meta.pk_fields]
        self._fields[label] = {}
        for field in meta.local_concrete_fields:
            is_ours = names is None or field.name in names
            # A key that the database counts says nothing: a run that was rolled back has used up some.
            is_counted = isinstance(field, models.AutoField)
            if field.column and is_ours and not is_counted and f"{meta.label}.{field.name}" not in ignored:
                is_key = field.remote_field and field.target_field.primary_key
                target = _labelled(_meta(field.target_field.model).label, alias) if is_key else None
                self._fields[label][field.column] = field.name, target
        select = f"SELECT '{label}', to_jsonb(t)::text FROM {table} AS t WHERE {condition}"
        self._selects.setdefault(alias, []).append(select)


@dataclass(frozen=True)
class Comparison:
    """`prepared` are the rows before the job, `unsteady` fields that differ anyway."""

    prepared: RowStates
    unsteady: frozenset[Field] = frozenset()

    def unsteady_fields(self, one: RowStates, two: RowStates) -> frozenset[Field]:
        """Returns the fields that differ between two runs without a kill."""
        found = set()
        for label in one.keys() - {STATE}:
            for name in {name for rows in (one, two) for row in rows[label].values() for name in row}:
                if self._column(one, label, name) != self._column(two, label, name):
                    found.add((label, name))
        return frozenset(found)

    def differences(self, expected: RowStates, got: RowStates) -> list[str]:
        """Returns the differences in words; empty where the rows are the same."""
        said: list[str] = []
        for label, prepared in self.prepared.items():
            for key in prepared:
                said += self._of_row(label, key, expected, got)
            wanted, found = self._new_rows(expected, label), self._new_rows(got, label)
            if wanted != found:
                said.append(f"{label}: " + _bags_differ(wanted, found))
        return said

    def _of_row(self, label: str, key: str, expected: RowStates, got: RowStates) -> Iterator[str]:
        where = f"{label} {key}".strip()
        wanted, found = expected[label].get(key), got[label].get(key)
        if wanted is None or found is None:
            if wanted is not found:
                yield f"{where} was {'kept' if wanted is None else 'deleted'}."
            return
        forms = self._form(label, wanted), self._form(label, found)
        for name in {**forms[0], **forms[1]}:
            values = [form.get(name) for form in forms]
            if values[0] != values[1]:
                place = f"{where}: {name}" if name else where
                yield f"{place} is {_short(values[1])} instead of {_short(values[0])}."

    def _new_rows(self, rows: RowStates, label: str) -> Counter[str]:
        new = (row for key, row in rows[label].items() if key not in self.prepared[label])
        return Counter(json.dumps(self._form(label, row)) for row in new)

    def _column(self, rows: RowStates, label: str, name: str) -> Any:
        """Returns the values of a field: of the prepared rows by key, of the new ones in any order."""
        values = {key: json.dumps(row.get(name)) for key, row in rows[label].items()}
        prepared = {key: values.pop(key, "") for key in self.prepared[label]}
        return prepared, Counter(values.values())

    def _form(self, label: str, row: RowState) -> RowState:
        shown = {
            name: value and "(some value)" for name, value in row.items() if (label, name) in self.unsteady
        }
        return row | shown


def result_row(result: Any) -> RowState:
    """Returns the result of a job, or of state(), as the row of a table that always has one."""
    return result if isinstance(result, dict) else {"": result}


def rounded(value: Any) -> Any:
    """Returns a JSON value with its floats cut to 12 digits."""
    return json.loads(json.dumps(value), parse_float=_rounded)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _rounded(text: str) -> float:
    """Returns the number cut to 12 digits: sums of the same numbers in another order differ after that."""
    value = float(format(float(text), ".12g"))
    return int(value) if value.is_integer() else value


def _meta(model: Any) -> Any:
    return model._meta  # noqa: SLF001 - Django's documented Meta API


def _labelled(label: str, alias: str) -> str:
    return label if alias == DEFAULT_DB_ALIAS else f"{label} in {alias}"


def _bags_differ(wanted: Counter[str], found: Counter[str]) -> str:
    is_as_many = wanted.total() == found.total()
    rows = "row" if found.total() == 1 else "rows"
    count = f"{found.total()} new {rows} instead of {wanted.total()}."
    said = ["other values in new rows." if is_as_many else count]
    for what, forms in (("Too many", found - wanted), ("Missing", wanted - found)):
        rows_shown = [json.loads(form) for form in list(forms.elements())[:SHOWN]]
        shown = [_short({name: it for name, it in row.items() if it is not None}) for row in rows_shown]
        more = forms.total() - len(shown)
        if shown:
            said.append(f"{what}: {'; '.join(shown)}{f' and {more} more' if more else ''}.")
    return " ".join(said)
