"""What a round has left in the databases: the rows of the project's models, as text that can be compared, the jobs
that were enqueued and the entries of the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db import connections, models

from pgonly_django.models import CacheEntry, DurableCacheEntry, Job

OURS = "pgonly_django"
JOBS, CACHE = "enqueued jobs", "cache entries"
JOB_COLUMNS = frozenset({"task", "queue", "priority", "args", "kwargs"})
CACHE_COLUMNS = frozenset({"key", "codec", "value", "number", "tags"})
LIVE = "num_nonnulls(value, number) > 0 AND coalesce(expires_at > clock_timestamp(), true)"
# Of the tables of ours that are compared: how a message calls them, their columns, and which rows.
OF_OURS: tuple[tuple[type[models.Model], str, frozenset[str], str], ...] = (
    (Job, JOBS, JOB_COLUMNS, "true"),
    (CacheEntry, CACHE, CACHE_COLUMNS, LIVE),
    (DurableCacheEntry, f"{CACHE} in the durable table", CACHE_COLUMNS, LIVE),
)
DIGITS = ".12g"  # of a float: sums of the same numbers in another order differ after that

Row = dict[str, Any]  # by the name of the field: text, None, or a Reference
Rows = dict[str, dict[str, Row]]  # by label of the model, then by primary key


@dataclass(frozen=True)
class Reference:
    """The row of another model that a foreign key names."""

    label: str
    key: str


@dataclass(frozen=True)
class Table:
    """A model's own table in one database. `key` is its primary key, as SQL that makes a text."""

    alias: str
    label: str
    name: str
    key: str
    fields: dict[str, models.Field[Any, Any]] = field(hash=False)  # by column
    condition: str = "true"

    def select(self, number: int) -> str:
        columns = ", ".join(map(_as_text, self.fields))
        return (
            f"SELECT {number}, {self.key}, ARRAY[{columns}]::text[] FROM {self.name} WHERE {self.condition}"
        )

    def row(self, texts: list[str | None]) -> Row:
        fields = self.fields.values()
        return {each.name: _comparable(each, text) for each, text in zip(fields, texts, strict=True)}


class Reader:
    """Reads the rows of the same tables after each round, on the connections that have its transactions."""

    def __init__(self, aliases: Sequence[str]) -> None:
        self._tables: dict[str, Table] = {}
        for alias in aliases:
            if connections[alias].vendor == "postgresql":
                found = [_table(alias, model) for model in _project_models()] + _tables_of_ours(alias)
                for table in found:
                    if _exists(alias, table.name):
                        self._tables[self._label(table)] = table

    def read(self) -> Rows:
        """Of a model with tables in several databases, the rows of each have the alias in their label."""
        rows: Rows = {label: {} for label in self._tables}
        for alias in {table.alias for table in self._tables.values()}:
            here = {label: table for label, table in self._tables.items() if table.alias == alias}
            for number, found in enumerate(rows_of(alias, list(here.values()))):
                rows[list(here)[number]] = found
        return rows

    def _label(self, table: Table) -> str:
        return f"{table.label} in {table.alias}" if table.label in self._tables else table.label


def rows_of(alias: str, tables: Sequence[Table]) -> list[dict[str, Row]]:
    """Those of each table, all in one statement."""
    found: list[dict[str, Row]] = [{} for _ in tables]
    query = " UNION ALL ".join(table.select(number) for number, table in enumerate(tables))
    for number, key, texts in _rows(alias, query):
        found[number][key] = tables[number].row(texts)
    return found


def model_of(label: str) -> str:
    """The label of the model, of the label of its rows in one database."""
    return label.partition(" in ")[0]


def normal(value: Any) -> Any:
    """A JSON value with its floats cut to 12 digits."""
    match value:
        case float():
            return float(format(value, DIGITS))
        case dict():
            return {key: normal(each) for key, each in value.items()}
        case list():
            return [normal(each) for each in value]
    return value


def meta_of(model: type[models.Model]) -> Any:
    return model._meta  # noqa: SLF001 - Django's documented Meta API


def _project_models() -> list[type[models.Model]]:
    """With the tables that Django makes for many-to-many fields."""
    found = apps.get_models(include_auto_created=True)
    return [each for each in found if meta_of(each).app_label != OURS and not meta_of(each).proxy]


def _table(alias: str, model: type[models.Model]) -> Table:
    meta = meta_of(model)
    name = connections[alias].ops.quote_name(meta.db_table)
    parts = [_as_text(str(each.column)) for each in meta.pk_fields]
    key = parts[0] if len(parts) == 1 else f"ARRAY[{', '.join(parts)}]::text"
    # A key that the database counts says nothing: a run that was rolled back has used up some.
    fields = [it for it in meta.local_concrete_fields if it.column and not isinstance(it, models.AutoField)]
    return Table(alias, meta.label, name, key, {str(it.column): it for it in fields})


def _tables_of_ours(alias: str) -> list[Table]:
    found = []
    for model, label, columns, condition in OF_OURS:
        table = _table(alias, model)
        fields = {column: it for column, it in table.fields.items() if column in columns}
        found.append(Table(alias, label, table.name, table.key, fields, condition))
    return found


def _as_text(column: str) -> str:
    return f'"{column}"::text'


def _exists(alias: str, name: str) -> bool:
    """As a table, no view."""
    query = "SELECT FROM pg_class WHERE oid = to_regclass(%s) AND relkind IN ('r', 'p')"
    return bool(_rows(alias, query, [name]))


def _rows(alias: str, query: str, parameters: list[Any] | None = None) -> list[Any]:
    """As PostgreSQL gives them: no converter of Django's, and no query that a test counts."""
    with closing(connections[alias].connection.cursor()) as cursor:
        cursor.execute(query, parameters)
        rows: list[Any] = cursor.fetchall()
        return rows


def _comparable(field: models.Field[Any, Any], text: str | None) -> Any:
    if text is None:
        return None
    target: Any = field.remote_field and field.target_field  # type: ignore[attr-defined] # of foreign keys
    if target is not None and target.primary_key:
        return Reference(meta_of(target.model).label, text)
    with suppress(ValueError):  # a subclass that stores something else, encrypted for instance
        if isinstance(field, models.FloatField):
            return format(float(text), DIGITS)
        if isinstance(field, models.JSONField):
            return json.dumps(normal(json.loads(text)), sort_keys=True)
    return text
