"""Our tables and their indexes, compared with what the models declare, and migrations that are not applied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.apps import apps
from django.db import connections, models
from django.db.migrations.loader import MigrationLoader

from pgonly_django.database.placement import APP, find, what_is_wrong
from pgonly_django.monitoring.doctor.reading import OUR_TABLES, belongs_to, reading, rows
from pgonly_django.monitoring.findings import Condition, Finding, Level, database_flag
from pgonly_django.tables import name_of, qualified

MISPLACED = Condition("D053", Level.ERROR, "{_problem}", "See docs/how-to/databases.md#a-separate-schema.")
MISSING_TABLE = Condition(
    "D051",
    Level.ERROR,
    "The table {table} is missing, and the migrations that make it are marked as applied.",
    "Restore it from a backup. Or, where all tables of pgonly_django are gone, make them again: "
    "manage.py migrate --fake pgonly_django zero{_database} && manage.py migrate pgonly_django{_database}",
)
PENDING = Condition(
    "D052",
    Level.ERROR,
    "Migrations of pgonly_django are not applied: {pending:names}.",
    "manage.py migrate pgonly_django{_database}",
)


def placement(alias: str) -> Iterator[Finding]:
    """D053: tables are in another schema than PGONLY["SCHEMA"] says, or the role may not use that."""
    with reading(alias):
        problem = what_is_wrong(connections[alias])
    if problem:
        yield MISPLACED.finding(_problem=problem)


def migrations(alias: str) -> Iterator[Finding]:
    """D052: migrations are not applied. D051: a table is missing."""
    with reading(alias):
        pending, places = _pending(alias), find(connections[alias])
    if pending:
        yield PENDING.finding(pending=pending, _database=database_flag(alias))
        return
    there = {*places.at_place, *(name for names in places.misplaced.values() for name in names)}
    for model in _models(alias):
        if (name := name_of(model._meta.db_table)) not in there:  # noqa: SLF001 - documented
            yield MISSING_TABLE.finding(table=name, _database=database_flag(alias))


def _pending(alias: str) -> list[str]:
    loader = MigrationLoader(connections[alias])
    missing = loader.graph.nodes.keys() - loader.applied_migrations.keys()
    return sorted(name for app, name in missing if app == APP)


def _models(alias: str) -> list[type[models.Model]]:
    models = apps.get_app_config(APP).get_models()
    return [model for model in models if belongs_to(alias, model) and not model._meta.proxy]  # noqa: SLF001 - documented


MISSING_INDEX = Condition(
    "D041",
    Level.ERROR,
    "The index {index} of the table {table} is missing: statements that rely on it read all rows.",
    "{_sql};",
)
INVALID_INDEX = Condition(
    "D043",
    Level.ERROR,
    "The index {index} of the table {table} is invalid: CREATE INDEX or REINDEX CONCURRENTLY was interrupted. Queries "
    "do not use it, and each write pays for it.",
    "REINDEX INDEX CONCURRENTLY {_schema:sql}.{index:sql};",
)
LEFT_OVER_INDEX = Condition(
    "D043",
    Level.WARNING,
    INVALID_INDEX.fact,
    "It is a left-over: DROP INDEX CONCURRENTLY {_schema:sql}.{index:sql};",
)
# A table without an index has a row, too. An index that is being built is not used yet.
INDEXES = f"""
WITH {OUR_TABLES}
SELECT t.schema AS _schema, t.name AS table, c.relname::text AS index,
    NOT (indisvalid AND indisready AND indislive) AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS now
        WHERE now.datname = current_database() AND now.index_relid = c.oid) AS _is_invalid
FROM our_tables AS t LEFT JOIN pg_index ON indrelid = t.oid LEFT JOIN pg_class AS c ON c.oid = indexrelid
ORDER BY t.name, c.relname
"""


def indexes(alias: str) -> Iterator[Finding]:
    """D041: one is missing. D043: one is invalid. Where migrations are not applied, D052 says so, and where the table
    itself is missing, D051."""
    found = rows(alias, INDEXES)
    tables, names = ({row[column] for row in found} for column in ("table", "index"))
    with reading(alias):
        wanted = [] if _pending(alias) else declared_indexes(alias)
        ours = {index.name: index for index in wanted}
    for index in ours.values():
        if index.name not in names and index.table in tables:
            yield MISSING_INDEX.finding(index=index.name, table=index.table, _sql=index.sql)
    for row in found:
        if row["_is_invalid"]:
            yield (INVALID_INDEX if row["index"] in ours else LEFT_OVER_INDEX).finding(**row)


class DeclaredIndex(NamedTuple):
    name: str
    table: str
    sql: str  # makes it beside live writers


# Those that the migration makes with its own SQL, which Django's models do not have.
BY_SQL = {
    "{}_prune": "CREATE INDEX CONCURRENTLY {0}_prune ON {0} (split_part(key, ':', 1), prune_minute)",
    "{}_tags": (
        "CREATE INDEX CONCURRENTLY {0}_tags ON {0} USING gin (tags) WITH (gin_pending_list_limit = 256) "
        "WHERE tags IS NOT NULL"
    ),
}


def declared_indexes(alias: str) -> Iterator[DeclaredIndex]:
    """Yields the indexes without those for LIKE that Django adds to keys of text: no statement needs them."""
    with connections[alias].schema_editor(collect_sql=True, atomic=False) as editor:
        for model in _models(alias):
            yield from _of_model(model, editor)


def _of_model(model: type[models.Model], editor: Any) -> Iterator[DeclaredIndex]:
    options: Any = model._meta  # noqa: SLF001 - documented
    table = name_of(options.db_table)
    for field in options.local_fields:  # as PostgreSQL names what a column refers to
        if field.unique:
            key = "PRIMARY KEY" if field.primary_key else "UNIQUE"
            name = f"{table}_pkey" if field.primary_key else f"{table}_{field.column}_key"
            sql = f'ALTER TABLE {qualified(table)} ADD CONSTRAINT {name} {key} ("{field.column}")'
            yield DeclaredIndex(name, table, sql)
    for index in options.indexes:
        yield DeclaredIndex(index.name, table, str(index.create_sql(model, editor, concurrently=True)))
    for constraint in options.constraints:
        if isinstance(constraint, models.UniqueConstraint):
            yield DeclaredIndex(constraint.name, table, str(constraint.create_sql(model, editor)))
    if table in ("pgonly_cache", "pgonly_cache_durable"):
        for name, sql in BY_SQL.items():
            yield DeclaredIndex(name.format(table), table, qualified(sql.format(table)))
