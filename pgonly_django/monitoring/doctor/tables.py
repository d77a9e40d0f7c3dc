"""Our tables and their indexes, compared with what the models declare, and migrations that are not applied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.db import connections, models
from django.db.migrations.loader import MigrationLoader

from pgonly_django.database.placement import APP, find, what_is_wrong
from pgonly_django.monitoring.doctor.reading import belongs_to, reading
from pgonly_django.monitoring.findings import Condition, Finding, Level, database_flag
from pgonly_django.tables import name_of, qualified

# fmt: off
MISSING_INDEX = Condition(
    "D041", Level.ERROR,
    "The index {index} of the table {table} is missing: statements that rely on it read all rows.", "{_sql};")
MISSING_TABLE = Condition(
    "D051", Level.ERROR, "The table {table} is missing, and the migrations that make it are marked as applied.",
    "Restore it from a backup. Or, where all tables of pgonly_django are gone, make them again: "
    "manage.py migrate --fake pgonly_django zero{_database} && manage.py migrate pgonly_django{_database}")
PENDING = Condition(
    "D052", Level.ERROR, "Migrations of pgonly_django are not applied: {pending:names}.",
    "manage.py migrate pgonly_django{_database}")
MISPLACED = Condition("D053", Level.ERROR, "{_problem}", "See docs/how-to/databases.md#a-separate-schema.")
# fmt: on


def are_there(alias: str) -> bool:
    """Returns whether a table of ours is at its place."""
    with reading(alias):
        return bool(find(connections[alias]).at_place)


def ours(alias: str) -> Iterator[Finding]:
    """D053: tables are in another schema than PGONLY["SCHEMA"] says, or the role may not use that. D052: migrations are
    not applied. D051: a table is missing."""
    connection = connections[alias]
    with reading(alias):
        problem, pending, places = what_is_wrong(connection), _pending(alias), find(connection)
    if problem:
        yield MISPLACED.finding(_problem=problem)
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


INDEXES = """
SELECT c.relname FROM pg_index JOIN pg_class AS c ON c.oid = indexrelid WHERE indrelid = ANY (%s::regclass[])
"""


def indexes(alias: str) -> Iterator[Finding]:
    """D041: an index is missing. Where migrations are not applied, D052 says so, and of a missing table D051."""
    with reading(alias) as cursor:
        if _pending(alias):
            return
        tables = find(connections[alias]).at_place
        cursor.execute(INDEXES, [[qualified(table) for table in tables]])
        there = {name for (name,) in cursor.fetchall()}
        wanted = list(declared_indexes(alias))
    for table, index, sql in wanted:
        if table in tables and index not in there:
            yield MISSING_INDEX.finding(index=index, table=table, _sql=sql)


# Those that the migration makes with its own SQL, which Django's models do not have.
BY_SQL = {
    "{}_prune": "CREATE INDEX CONCURRENTLY {0}_prune ON {0} (split_part(key, ':', 1), prune_minute)",
    "{}_tags": (
        "CREATE INDEX CONCURRENTLY {0}_tags ON {0} USING gin (tags) WITH (gin_pending_list_limit = 256) "
        "WHERE tags IS NOT NULL"
    ),
}


def declared_indexes(alias: str) -> Iterator[tuple[str, str, str]]:
    """Yields table, name and SQL that makes it beside live writers, of each index. Those for LIKE that Django adds to
    keys of text are left out: no statement needs them."""
    with connections[alias].schema_editor(collect_sql=True, atomic=False) as editor:
        for model in _models(alias):
            options: Any = model._meta  # noqa: SLF001 - documented
            table = name_of(options.db_table)
            for field in options.local_fields:  # as PostgreSQL names what a column refers to
                if field.unique:
                    key = "PRIMARY KEY" if field.primary_key else "UNIQUE"
                    name = f"{table}_pkey" if field.primary_key else f"{table}_{field.column}_key"
                    sql = f'ALTER TABLE {qualified(table)} ADD CONSTRAINT {name} {key} ("{field.column}")'
                    yield table, name, sql
            for index in options.indexes:
                yield table, index.name, str(index.create_sql(model, editor, concurrently=True))
            for constraint in options.constraints:
                if isinstance(constraint, models.UniqueConstraint):
                    yield table, constraint.name, str(constraint.create_sql(model, editor))
            for name, sql in BY_SQL.items():
                if table in ("pgonly_cache", "pgonly_cache_durable"):
                    yield table, name.format(table), qualified(sql.format(table))
