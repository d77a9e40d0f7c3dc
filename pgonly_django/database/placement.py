"""Where our tables are in a database, and where they should be: for migrations, the system check and runworker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from django.apps import apps
from django.core import checks
from django.core.management.base import CommandError
from django.db import DatabaseError, connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader

from pgonly_django.conf import schema
from pgonly_django.database.on_django import all_rows
from pgonly_django.tables import TABLES, name_of

APP = "pgonly_django"
MOVE = "docs/how-to/databases.md#move-the-tables"

# In all schemas but those of PostgreSQL and of temporary tables. Without PGONLY["SCHEMA"] a table is at its place where
# the search_path finds it.
PLACES = """
SELECT c.relname, n.nspname, CASE WHEN %(schema)s = '' THEN pg_table_is_visible(c.oid) ELSE n.nspname = %(schema)s END
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
ORDER BY n.nspname, array_position(%(tables)s, c.relname::text)
"""


class Placement(NamedTuple):
    at_place: list[str]
    # By schema: those that migrations have made for this installation, and that are in other schemas only.
    misplaced: dict[str, list[str]]


def find(connection: BaseDatabaseWrapper) -> Placement:
    """Returns where the tables are. Other schemas may have tables of the same names: those of tenants, of another
    installation, of a backup. They are not misplaced while the tables of this installation are at their place."""
    at_place: list[str] = []
    elsewhere: dict[str, list[str]] = {}
    known = {"schema": schema(), "tables": list(TABLES)}
    for name, place, is_right in all_rows(connection.alias, PLACES, known):
        (at_place if is_right else elsewhere.setdefault(place, [])).append(name)
    missing = {name for names in elsewhere.values() for name in names}.difference(at_place)
    missing = missing and missing & _migrated(connection)
    found = {place: [name for name in names if name in missing] for place, names in elsewhere.items()}
    return Placement(at_place, {place: names for place, names in found.items() if names})


def _migrated(connection: BaseDatabaseWrapper) -> set[str]:
    """Returns the tables of the migrations that are applied, except those that a router keeps out of this database."""
    loader = MigrationLoader(connection)
    applied = [node for node in loader.applied_migrations if node[0] == APP and node in loader.graph.nodes]
    if not applied:
        return set()
    allowed = [
        model
        for model in apps.get_app_config(APP).get_models()
        if router.allow_migrate_model(connection.alias, model) and not model._meta.proxy  # noqa: SLF001 - as below
    ]
    names = {model._meta.model_name for model in allowed}  # noqa: SLF001 - Django's documented Meta API
    models = loader.project_state(applied).models
    return {
        name_of(models[APP, name].options["db_table"]) for app, name in models if app == APP and name in names
    }


def what_is_wrong(connection: BaseDatabaseWrapper) -> str | None:
    """Returns the message when tables of this installation are in other schemas than the setting says, else None."""
    placement = find(connection)
    if not placement.misplaced:
        return _what_is_forbidden(connection) if schema() and placement.at_place else None
    unset = 'PGONLY has no "SCHEMA", and the search_path does not lead there'
    setting = f'PGONLY["SCHEMA"] is "{schema()}"' if schema() else unset
    places = " and ".join(
        f'in schema "{place}" ({_listed(names)})' for place, names in placement.misplaced.items()
    )
    return (
        f"In database {connection.alias!r} tables of pgonly_django are {places}, but {setting}. Correct the setting, "
        f"or move the tables: {MOVE}."
    )


def _what_is_forbidden(connection: BaseDatabaseWrapper) -> str | None:
    may_use = "SELECT has_schema_privilege(%s, 'USAGE'), current_user::text"
    ((is_allowed, role),) = all_rows(connection.alias, may_use, [schema()])
    grant = f'GRANT USAGE ON SCHEMA "{schema()}" TO "{role}";'
    return None if is_allowed else f'Role "{role}" may not use schema "{schema()}". As its owner: {grant}'


def _listed(names: list[str], shown: int = 2) -> str:
    more = len(names) - shown
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:shown])} and {more} more"


def refuse_elsewhere(*, using: str, **_: Any) -> None:
    """Receives pre_migrate: new tables would be at the right place, and the old ones at the wrong one."""
    connection = connections[using]
    if connection.vendor == "postgresql" and (problem := what_is_wrong(connection)):
        raise CommandError(problem)


MAY_CREATE = """
SELECT to_regnamespace(%(quoted)s) IS NOT NULL, CASE WHEN to_regnamespace(%(quoted)s) IS NULL
    THEN has_database_privilege(current_database(), 'CREATE') ELSE has_schema_privilege(%(plain)s, 'CREATE') END,
    current_user::text, current_database()::text
"""


def create_schema(connection: BaseDatabaseWrapper) -> None:
    """Creates the schema of the setting, unless it is there. Raises CommandError, with what to do, where the role may
    not create it, or no tables in it."""
    with connection.cursor() as cursor:
        cursor.execute(MAY_CREATE, {"quoted": f'"{schema()}"', "plain": schema()})
        is_there, is_allowed, role, database = cursor.fetchone()
        if not is_allowed:
            raise CommandError(
                f'PGONLY["SCHEMA"] is "{schema()}", but role "{role}" may not create tables in that schema. As a role '
                f'that owns it: GRANT USAGE, CREATE ON SCHEMA "{schema()}" TO "{role}";'
                if is_there
                else f'PGONLY["SCHEMA"] is "{schema()}", but role "{role}" may not create that schema. As the owner of '
                f'database "{database}": CREATE SCHEMA "{schema()}" AUTHORIZATION "{role}";'
            )
        if not is_there:
            cursor.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema()}"')


def check_placement(databases: Iterable[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """E050: the tables are in other schemas than PGONLY["SCHEMA"] says. Runs with `check --database`."""
    found: list[checks.CheckMessage] = []
    for alias in databases or ():
        try:
            problem = what_is_wrong(connections[alias]) if connections[alias].vendor == "postgresql" else None
        except DatabaseError:
            continue  # a check may run while the server does not answer
        if problem:
            found.append(checks.Error(problem, hint=f"See {MOVE}.", id="pgonly_django.E050"))
    return found
