"""Our tables and their indexes, compared with what the models declare, and migrations that are not applied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.apps import apps
from django.db import connections, models
from django.db.migrations.loader import MigrationLoader

from pgonly_django.database.placement import APP, find, what_is_wrong
from pgonly_django.monitoring.doctor.reading import OUR_TABLES, belongs_to, reading, rows
from pgonly_django.monitoring.findings import Condition, Finding, Level, database_flag, identifier
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
    "The index {index} of the table {table} is not the one that the migrations declare: it has {_keys:n column}"
    "{_more}.",
    "DROP INDEX CONCURRENTLY {_name}; {_sql};",
)
INVALID_INDEX = Condition(
    "D043",
    Level.ERROR,
    "The index {index} of the table {table} is invalid: CREATE INDEX or REINDEX CONCURRENTLY was interrupted. Queries "
    "do not use it, and each write pays for it.",
    "REINDEX INDEX CONCURRENTLY {_name};",
)
LEFT_OVER_INDEX = Condition(
    "D043", Level.WARNING, INVALID_INDEX.fact, "It is a left-over: DROP INDEX CONCURRENTLY {_name};"
)
NEW_INDEX = Condition(
    "D043",
    Level.INFO,
    "The index {index} is being built at the moment, and not used yet.",
    "Wait until it is done.",
)
# Free pages inside an index are used again. They cost memory and backups, no claim.
BLOATED_INDEX = Condition(
    "D044",
    Level.INFO,
    "The index {index} takes {bytes:size}, and its {entries:n entry/entries} need about {expected_bytes:size}.",
    "REINDEX INDEX CONCURRENTLY {_name};",
    limit=8 * 1024**2,  # bytes more than its entries need,
)
BLOATED_TIMES, BLOATED_WARNING_BYTES = 4, 32 * 1024**2  # and so many times as much
# What an entry takes beside its columns, how full pages are, and how wide a column is that has no statistics.
ENTRY_BYTES, FILL, UNKNOWN_WIDTH = 16, 0.7, 40

# The widths are NULL for a role that may not read the table. For its expressions an index has statistics, too. -1
# entries: no VACUUM and no ANALYZE has counted them.
INDEXES = f"""
WITH {OUR_TABLES}
SELECT t.schema, t.name AS table, c.relname::text AS name, indisvalid AND indisready AND indislive AS is_usable,
    indisunique AS is_unique, indnkeyatts AS keys, indpred IS NOT NULL AS is_partial, pg_relation_size(c.oid) AS bytes,
    CASE a.amname WHEN 'btree' THEN c.reltuples::int8 ELSE -1 END AS entries, (
        SELECT sum(coalesce(s.avg_width, {UNKNOWN_WIDTH}) + 4) FROM unnest(indkey) WITH ORDINALITY AS k(number, place)
        LEFT JOIN pg_attribute AS column_ ON column_.attrelid = CASE k.number WHEN 0 THEN c.oid ELSE t.oid END
            AND column_.attnum = CASE k.number WHEN 0 THEN k.place ELSE k.number END
        LEFT JOIN pg_stats AS s ON s.schemaname = t.schema AND s.attname = column_.attname
            AND s.tablename = CASE k.number WHEN 0 THEN c.relname ELSE t.name END
    )::float8 AS width,
    EXISTS (SELECT FROM pg_stat_progress_create_index AS now
        WHERE now.datname = current_database() AND now.index_relid = c.oid) AS is_being_built
FROM our_tables AS t JOIN pg_index ON indrelid = t.oid JOIN pg_class AS c ON c.oid = indexrelid
JOIN pg_am AS a ON a.oid = c.relam
ORDER BY t.name, c.relname
"""


TABLES = f"WITH {OUR_TABLES} SELECT name FROM our_tables"


class FoundIndex(NamedTuple):
    """A row of INDEXES."""

    schema: str
    table: str
    name: str
    is_usable: bool
    is_unique: bool
    keys: int
    is_partial: bool
    bytes: int
    entries: int
    width: float
    is_being_built: bool


class DeclaredIndex(NamedTuple):
    name: str
    table: str
    keys: int  # how many columns or expressions
    is_unique: bool
    is_partial: bool
    sql: str  # what makes it beside live writers, without a semicolon


def indexes(alias: str) -> Iterator[Finding]:
    """D041: one is missing. D042: one is another than its name says. D043: one is invalid. D044: one is bloated. Where
    migrations are not applied, D052 says so, and nothing is missing."""
    found = {row["name"]: FoundIndex(**row) for row in rows(alias, INDEXES)}
    tables = {row["name"] for row in rows(alias, TABLES)}
    with reading(alias):
        wanted = {} if _migrations(alias)[0] else {each.name: each for each in declared_indexes(alias)}
    for name, index in wanted.items():
        facts: dict[str, Any] = {"index": name, "table": index.table, "_sql": index.sql}
        if name not in found:
            if index.table in tables:  # else the table itself is missing, which D051 says
                yield MISSING_INDEX.finding(**facts)
        elif (index.keys, index.is_unique, index.is_partial) != (
            (there := found[name]).keys, there.is_unique, there.is_partial
        ):  # fmt: skip
            more = f"{', a condition' * there.is_partial}{', unique' * there.is_unique}"
            yield OTHER_INDEX.finding(**facts, _keys=there.keys, _more=more, _name=_sql_name(there))
    for each in found.values():
        yield from _judged(each, is_ours=each.name in wanted)


def _sql_name(index: FoundIndex) -> str:
    return identifier(index.schema, index.name)


def _judged(index: FoundIndex, *, is_ours: bool) -> Iterator[Finding]:
    facts: dict[str, Any] = {"index": index.name, "table": index.table, "_name": _sql_name(index)}
    if not index.is_usable:
        invalid = INVALID_INDEX if is_ours else LEFT_OVER_INDEX
        yield (NEW_INDEX if index.is_being_built else invalid).finding(**facts)
        return
    needed = index.entries * (ENTRY_BYTES + index.width) / FILL
    wasted = index.bytes - needed
    if index.entries >= 0 and wasted >= BLOATED_INDEX.limit and index.bytes >= BLOATED_TIMES * needed:
        level = Level.WARNING if wasted >= BLOATED_WARNING_BYTES else None
        sizes = {"bytes": index.bytes, "entries": index.entries, "expected_bytes": int(needed)}
        yield BLOATED_INDEX.finding(level=level, **facts, **sizes)


# Those that the migration makes with SQL of its own, which Django's models do not have: how many columns, whether they
# have a condition.
BY_SQL = (
    (2, False, "CREATE INDEX CONCURRENTLY {0}_prune ON {0} (split_part(key, ':', 1), prune_minute)"),
    (1, True, "CREATE INDEX CONCURRENTLY {0}_tags ON {0} USING gin (tags) {1} WHERE tags IS NOT NULL"),
)
GIN = "WITH (gin_pending_list_limit = 256)"


def declared_indexes(alias: str) -> Iterator[DeclaredIndex]:
    """Without those for LIKE that Django adds to keys of text: no statement needs them."""
    with connections[alias].schema_editor(collect_sql=True, atomic=False) as editor:
        for model in _models(alias):
            yield from _of_model(model, editor)


def _of_model(model: type[models.Model], editor: Any) -> Iterator[DeclaredIndex]:
    options: Any = model._meta  # noqa: SLF001 - documented
    table = name_of(options.db_table)
    for field in options.local_fields:  # as PostgreSQL names what stands behind a column
        if field.unique:
            kind = "PRIMARY KEY" if field.primary_key else "UNIQUE"
            name = f"{table}_pkey" if field.primary_key else f"{table}_{field.column}_key"
            sql = f'ALTER TABLE {qualified(table)} ADD CONSTRAINT {name} {kind} ("{field.column}")'
            yield DeclaredIndex(name, table, 1, True, False, sql)
    for each in (*options.indexes, *options.constraints):
        if isinstance(each, models.Index | models.UniqueConstraint):
            is_unique, keys = (
                isinstance(each, models.UniqueConstraint),
                len(each.fields) + len(each.expressions),
            )
            how: dict[str, Any] = {} if is_unique else {"concurrently": True}
            sql = str(each.create_sql(model, editor, **how))
            yield DeclaredIndex(each.name, table, keys, is_unique, each.condition is not None, sql)
    if table in ("pgonly_cache", "pgonly_cache_durable"):
        for keys, is_partial, template in BY_SQL:
            name = template.format(table, GIN).split()[3]
            sql = qualified(template.format(table, GIN))
            yield DeclaredIndex(name, table, keys, False, is_partial, sql)
