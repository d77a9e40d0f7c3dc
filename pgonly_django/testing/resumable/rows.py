"""What a run has left in the databases: the rows of the project's models, as text that can be compared."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from django.apps import apps
from django.db import connections, models

from pgonly_django.models import Job
from pgonly_django.testing.resumable.databases import Databases, connect_to

OURS = "pgonly_django"
JOBS = "enqueued jobs"
JOB_COLUMNS = ("id", "task", "queue", "priority", "args", "kwargs")
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
    """A model's own table. `key` is its primary key, as SQL that makes a text."""

    label: str
    name: str
    key: str
    fields: dict[str, models.Field[Any, Any]] = field(hash=False)  # by column

    def read(self, connection: psycopg.Connection[Any]) -> dict[str, Row]:
        columns = ", ".join((self.key, *map(_as_text, self.fields)))
        rows = connection.execute(f"SELECT {columns} FROM {self.name}")
        values = list(self.fields.values())
        return {
            key: {each.name: _comparable(each, text) for each, text in zip(values, texts, strict=True)}
            for key, *texts in rows
        }


class Reader:
    """Reads the rows of the same tables out of each copy. `ignored` are labels of models."""

    def __init__(self, databases: Databases, names: dict[str, str], jobs_alias: str) -> None:
        self._groups, self._jobs_alias = databases.groups, jobs_alias
        self._tables: dict[str, list[Table]] = {}
        for group in self._groups:
            with connect_to(group, names[group]) as connection:
                tables = [_table(group, model) for model in _project_models()]
                self._tables[group] = [table for table in tables if _exists(connection, table.name)]

    def read(self, names: dict[str, str]) -> Rows:
        """Of a model with tables in several databases, the rows of each have the alias in their label."""
        rows: Rows = {}
        for group, tables in self._tables.items():
            with connect_to(group, names[group]) as connection:
                for table in tables:
                    rows[self._label(group, table)] = table.read(connection)
        with connect_to(self._jobs_alias, names[self._jobs_alias]) as connection:
            rows[JOBS] = _jobs_table(self._jobs_alias).read(connection)
        return rows

    def _label(self, group: str, table: Table) -> str:
        holders = [
            each for each, tables in self._tables.items() if table.label in {it.label for it in tables}
        ]
        return table.label if group == holders[0] else f"{table.label} in {group}"


def model_of(label: str) -> str:
    """The label of the model, of the label of its rows in one database."""
    return label if label == JOBS else label.partition(" ")[0]


def job_row(alias: str, name: str, job_id: str) -> dict[str, Any]:
    """What the job of this database has come to."""
    table = connections[alias].ops.quote_name(meta_of(Job).db_table)
    columns = ("state", "result", "errors")
    with connect_to(alias, name) as connection:
        query = f"SELECT {', '.join(columns)} FROM {table} WHERE id = %s"
        row = connection.execute(query, [job_id]).fetchone()
    assert row is not None
    return dict(zip(columns, row, strict=True))


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
    return Table(meta.label, name, key, {str(it.column): it for it in fields})


def _as_text(column: str) -> str:
    return f'"{column}"::text'


def _jobs_table(alias: str) -> Table:
    table = _table(alias, Job)
    fields = {column: it for column, it in table.fields.items() if column in JOB_COLUMNS and column != "id"}
    return Table(JOBS, table.name, table.key, fields)


def _exists(connection: psycopg.Connection[Any], name: str) -> bool:
    """As a table, no view."""
    query = "SELECT FROM pg_class WHERE oid = to_regclass(%s) AND relkind IN ('r', 'p')"
    return connection.execute(query, [name]).fetchone() is not None


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
