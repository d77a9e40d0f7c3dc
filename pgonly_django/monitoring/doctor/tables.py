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

MISPLACED = Condition("D053", Level.ERROR, "{_problem}", "See docs/how-to/schema.md.")
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
LATER = Condition(
    "D054",
    Level.INFO,
    "The database has migrations of a later version of pgonly_django: {unknown:names}.",
    "This version works over them. Update it here, too, when the deploy is done.",
)


def placement(alias: str) -> Iterator[Finding]:
    """D053: tables are in another schema than PGONLY["SCHEMA"] says, or the role may not use that."""
    with reading(alias):
        problem = what_is_wrong(connections[alias])
    if problem:
        yield MISPLACED.finding(_problem=problem)


def migrations(alias: str) -> Iterator[Finding]:
    """D052: migrations are not applied. D054: those of a later version are. D051: a table is missing."""
    with reading(alias):
        pending, unknown = _migrations(alias)
        places = find(connections[alias])
    if pending:
        yield PENDING.finding(pending=pending, _database=database_flag(alias))
        return
    if unknown:
        yield LATER.finding(unknown=unknown)
    there = {*places.at_place, *(name for names in places.misplaced.values() for name in names)}
    for model in _models(alias):
        if (name := name_of(model._meta.db_table)) not in there:  # noqa: SLF001 - documented
            yield MISSING_TABLE.finding(table=name, _database=database_flag(alias))


def _migrations(alias: str) -> tuple[list[str], list[str]]:
    """Those that are not applied yet, and those that are and that this version does not have."""
    loader = MigrationLoader(connections[alias])
    known, applied = (
        {name for app, name in nodes if app == APP}
        for nodes in (loader.graph.nodes, loader.applied_migrations)
    )
    return sorted(known - applied), sorted(applied - known)


def _models(alias: str) -> list[type[models.Model]]:
    return [model for model in apps.get_app_config(APP).get_models() if belongs_to(alias, model)]


MISSING_INDEX = Condition(
    "D041",
    Level.ERROR,
    "The index {index} of the table {table} is missing: statements that rely on it read all rows.",
    "{_sql};",
)
OTHER_INDEX = Condition(
    "D042",
    Level.ERROR,
    "The index {index} of the table {table} is not the one that the models declare: it is {_kind}.",
    "DROP INDEX CONCURRENTLY {_schema:sql}.{index:sql}; {_sql};",
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
NEW_INDEX = Condition(
    "D043",
    Level.INFO,
    "The index {index} is being built at the moment, and not used yet.",
    "Wait until it is done.",
)
# A table without an index has a row, too.
INDEXES = f"""
WITH {OUR_TABLES}
SELECT t.schema AS _schema, t.name AS table, c.relname::text AS index,
    indisvalid AND indisready AND indislive AS _is_usable, indisunique AS _is_unique,
    indpred IS NOT NULL AS _is_partial,
    ARRAY(SELECT coalesce(attname::text, '') FROM unnest(indkey) WITH ORDINALITY AS key(number, place)
        LEFT JOIN pg_attribute ON attrelid = t.oid AND attnum = number
        WHERE place <= indnkeyatts ORDER BY place) AS _columns,
    EXISTS (SELECT FROM pg_stat_progress_create_index AS now
        WHERE now.datname = current_database() AND now.index_relid = c.oid) AS _is_being_built
FROM our_tables AS t LEFT JOIN pg_index ON indrelid = t.oid LEFT JOIN pg_class AS c ON c.oid = indexrelid
ORDER BY t.name, c.relname
"""


def indexes(alias: str) -> Iterator[Finding]:
    """D041: one is missing. D042: one is another than its name says. D043: one is invalid. Where migrations are not
    applied, D052 says so, and where the table itself is missing, D051."""
    found = rows(alias, INDEXES)
    tables, names = ({row[column] for row in found} for column in ("table", "index"))
    with reading(alias):
        wanted = [] if _migrations(alias)[0] else declared_indexes(alias)
        ours = {index.name: index for index in wanted}
    for index in ours.values():
        if index.name not in names and index.table in tables:
            yield MISSING_INDEX.finding(index=index.name, table=index.table, _sql=index.sql)
    for row in found:
        kind = Kind(row["_columns"], row["_is_unique"], row["_is_partial"])
        if (declared := ours.get(row["index"])) and declared.kind != kind:
            yield OTHER_INDEX.finding(**row, _kind=kind, _sql=declared.sql)
        if row["_is_usable"] is False:
            invalid = INVALID_INDEX if row["index"] in ours else LEFT_OVER_INDEX
            yield (NEW_INDEX if row["_is_being_built"] else invalid).finding(**row)


class Kind(NamedTuple):
    """What a statement needs of an index, and what a unique job does."""

    columns: list[str]  # "": an expression
    is_unique: bool
    is_partial: bool

    def __str__(self) -> str:
        columns = ", ".join(column or "an expression" for column in self.columns)
        unique, condition = (
            "unique" if self.is_unique else "not unique",
            "with" if self.is_partial else "without",
        )
        return f"{unique}, on {columns}, {condition} a condition"


class DeclaredIndex(NamedTuple):
    name: str
    table: str
    kind: Kind
    sql: str  # makes it beside live writers


# Those that the migration makes with SQL of its own, which Django's models do not have.
BY_SQL = {
    "{}_prune": (
        Kind(["", "prune_minute"], is_unique=False, is_partial=False),
        "CREATE INDEX CONCURRENTLY {0}_prune ON {0} (split_part(key, ':', 1), prune_minute)",
    ),
    "{}_tags": (
        Kind(["tags"], is_unique=False, is_partial=True),
        (
            "CREATE INDEX CONCURRENTLY {0}_tags ON {0} USING gin (tags) WITH (gin_pending_list_limit = 256) "
            "WHERE tags IS NOT NULL"
        ),
    ),
}


def declared_indexes(alias: str) -> Iterator[DeclaredIndex]:
    """Without those for LIKE that Django adds to keys of text: no statement needs them."""
    with connections[alias].schema_editor(collect_sql=True, atomic=False) as editor:
        for model in _models(alias):
            table = name_of(model._meta.db_table)  # noqa: SLF001 - documented
            yield from _of_model(model, table, editor)


def _of_model(model: type[models.Model], table: str, editor: Any) -> Iterator[DeclaredIndex]:
    options: Any = model._meta  # noqa: SLF001 - documented
    for field in options.local_fields:  # as PostgreSQL names what stands behind a column
        if field.unique:
            key = "PRIMARY KEY" if field.primary_key else "UNIQUE"
            name = f"{table}_pkey" if field.primary_key else f"{table}_{field.column}_key"
            sql = f'ALTER TABLE {qualified(table)} ADD CONSTRAINT {name} {key} ("{field.column}")'
            yield DeclaredIndex(name, table, Kind([field.column], is_unique=True, is_partial=False), sql)
    for index in options.indexes:
        sql = str(index.create_sql(model, editor, concurrently=True))
        yield DeclaredIndex(index.name, table, _kind(options, index, is_unique=False), sql)
    for constraint in options.constraints:
        if isinstance(constraint, models.UniqueConstraint):
            kind = _kind(options, constraint, is_unique=True)
            yield DeclaredIndex(constraint.name, table, kind, str(constraint.create_sql(model, editor)))
    if table in ("pgonly_cache", "pgonly_cache_durable"):
        for name, (kind, sql) in BY_SQL.items():
            yield DeclaredIndex(name.format(table), table, kind, qualified(sql.format(table)))


def _kind(options: Any, index: Any, *, is_unique: bool) -> Kind:
    """Of an index or a constraint of fields, each of them perhaps with .desc()."""
    fields = [*index.fields, *(getattr(each, "expression", each).name for each in index.expressions)]
    return Kind([options.get_field(name).column for name in fields], is_unique, index.condition is not None)
