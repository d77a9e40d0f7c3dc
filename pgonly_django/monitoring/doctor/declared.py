"""What the migrations that are applied have declared: the tables and the indexes that a database should have. Without
those for LIKE that Django adds to keys of text: no statement needs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connections, models
from django.db.migrations.loader import MigrationLoader

from pgonly_django.database.placement import APP
from pgonly_django.monitoring.doctor.our_tables import belongs_to
from pgonly_django.tables import name_of, qualified

# Those that migrations make with SQL of their own, which Django's state does not have: migrations/0001_initial.py.
BY_SQL = {
    f"{table}_{kind}": (table, sql.replace("TABLE", table))
    for table in ("pgonly_cache", "pgonly_cache_durable")
    for kind, sql in {
        "prune": "CREATE INDEX CONCURRENTLY TABLE_prune ON TABLE (split_part(key, ':', 1), prune_minute)",
        "tags": "CREATE INDEX CONCURRENTLY TABLE_tags ON TABLE USING gin (tags) "
        "WITH (gin_pending_list_limit = 256) WHERE tags IS NOT NULL",
    }.items()
}


@dataclass(frozen=True, slots=True)
class Index:
    name: str
    table: str
    keys: int  # how many columns or expressions
    is_unique: bool
    is_partial: bool
    sql: str  # what makes it beside live writers, without a semicolon


@dataclass(frozen=True, slots=True)
class Declared:
    tables: list[str]
    indexes: list[Index]
    pending: list[str]  # migrations that are not applied yet, in their order
    unknown: list[str]  # that are applied, and that this version does not have


def declared(alias: str) -> Declared:
    """Reads the table of Django's migrations. Tables that the routers keep out of the database are left out."""
    connection = connections[alias]
    loader = MigrationLoader(connection)
    own = [node for node in loader.graph.nodes if node[0] == APP]
    applied = [node for node in own if node in loader.applied_migrations]
    unknown = [
        name
        for app, name in loader.applied_migrations
        if app == APP and (app, name) not in loader.graph.nodes
    ]
    plan = loader.graph.leaf_nodes(APP)
    ordered = [node for leaf in plan for node in loader.graph.forwards_plan(leaf) if node[0] == APP]
    pending = [name for app, name in dict.fromkeys(ordered) if (app, name) not in loader.applied_migrations]
    apps = loader.project_state(applied).apps if applied else None
    here = [each for each in apps.get_app_config(APP).get_models() if belongs_to(alias, each)] if apps else []
    tables = sorted(name_of(model._meta.db_table) for model in here)  # noqa: SLF001 - documented
    indexes = [index for model in here for index in _indexes_of(connection, model)]
    return Declared(tables, indexes, pending, sorted(unknown))


def _indexes_of(connection: Any, model: type[models.Model]) -> list[Index]:
    options: Any = model._meta  # noqa: SLF001 - documented
    table = name_of(options.db_table)
    found = [_primary_key(options, table), *_unique_fields(options, table)]
    with connection.schema_editor(collect_sql=True, atomic=False) as editor:
        for index in options.indexes:
            sql = index.create_sql(model, editor, concurrently=True)
            keys = len(index.fields) + len(index.expressions)
            found.append(Index(index.name, table, keys, False, index.condition is not None, str(sql)))
        for each in options.constraints:
            if isinstance(each, models.UniqueConstraint):
                keys = len(each.fields) + len(each.expressions)
                sql = each.create_sql(model, editor)
                found.append(Index(each.name, table, keys, True, each.condition is not None, str(sql)))
    for name, (of, sql) in BY_SQL.items():
        if of == table:
            keys, is_partial = (2, False) if name.endswith("_prune") else (1, True)
            found.append(Index(name, table, keys, False, is_partial, qualified(sql)))
    return found


def _unique_fields(options: Any, table: str) -> Iterator[Index]:
    """As PostgreSQL names what stands as UNIQUE behind a column."""
    for field in options.local_fields:
        if field.unique and not field.primary_key:
            name = f"{table}_{field.column}_key"
            sql = f'ALTER TABLE {qualified(table)} ADD CONSTRAINT {name} UNIQUE ("{field.column}")'
            yield Index(name, table, 1, True, False, sql)


def _primary_key(options: Any, table: str) -> Index:
    sql = f'ALTER TABLE {qualified(table)} ADD PRIMARY KEY ("{options.pk.column}")'
    return Index(f"{table}_pkey", table, 1, True, False, sql)
