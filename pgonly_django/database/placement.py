"""Where our tables are in a database, and where they should be: for migrations, the system check, runworker and the
command that moves them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.core import checks
from django.core.management.base import CommandError
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.recorder import MigrationRecorder

from pgonly_django.conf import schema
from pgonly_django.tables import TABLES

# In all schemas but those of PostgreSQL and of temporary tables. Without PGONLY["SCHEMA"] a table is at its place where
# the search_path finds it.
PLACES = """
SELECT c.relname, n.nspname, CASE WHEN %(schema)s = '' THEN pg_table_is_visible(c.oid) ELSE n.nspname = %(schema)s END
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
ORDER BY n.nspname, array_position(%(tables)s, c.relname::text)
"""


@dataclass(frozen=True, slots=True)
class Placement:
    """The tables of one database."""

    alias: str
    at_place: list[str] = field(default_factory=list)
    elsewhere: dict[str, list[str]] = field(default_factory=dict)  # by schema

    @property
    def misplaced(self) -> dict[str, list[str]]:
        """Tables that are in other schemas only, by schema."""
        found = {
            place: [n for n in names if n not in self.at_place] for place, names in self.elsewhere.items()
        }
        return {place: names for place, names in found.items() if names}


def find(connection: BaseDatabaseWrapper) -> Placement:
    placement = Placement(connection.alias)
    with connection.cursor() as cursor:
        cursor.execute(PLACES, {"schema": schema(), "tables": list(TABLES)})
        for name, place, is_right in cursor.fetchall():
            if is_right:
                placement.at_place.append(name)
            else:
                placement.elsewhere.setdefault(place, []).append(name)
    return placement


def what_is_wrong(connection: BaseDatabaseWrapper) -> str | None:
    """The message when tables that were migrated here are in other schemas than the setting says; else None.

    Another tenant's tables are no reason: where the schemas of tenants have migrations of their own, those count.
    """
    placement = find(connection)
    misplaced = placement.misplaced
    if not misplaced or not _was_migrated(connection):
        return _what_is_forbidden(connection) if schema() and placement.at_place else None
    unset = 'PGONLY has no "SCHEMA", and the search_path does not lead there'
    setting = f'PGONLY["SCHEMA"] is "{schema()}"' if schema() else unset
    return (
        f"In database {connection.alias!r} tables of pgonly_django are {described(misplaced)}, but {setting}. Stop the "
        f"workers and the site and run `manage.py pgonly_schema move --database {connection.alias}`, or correct the "
        "setting."
    )


def _what_is_forbidden(connection: BaseDatabaseWrapper) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT has_schema_privilege(%s, 'USAGE'), current_user::text", [schema()])
        is_allowed, role = cursor.fetchone()
    grant = f'GRANT USAGE ON SCHEMA "{schema()}" TO "{role}";'
    return None if is_allowed else f'Role "{role}" may not use schema "{schema()}". As its owner: {grant}'


def described(tables: dict[str, list[str]]) -> str:
    """`in schema "public" (pgonly_job, pgonly_step and 11 more)`."""
    return " and ".join(f'in schema "{place}" ({listed(names)})' for place, names in tables.items())


def listed(names: Sequence[str], shown: int = 2) -> str:
    more = len(names) - shown
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:shown])} and {more} more"


def _was_migrated(connection: BaseDatabaseWrapper) -> bool:
    return any(app == "pgonly_django" for app, _ in MigrationRecorder(connection).applied_migrations())


def refuse_elsewhere(*, using: str, **_: Any) -> None:
    """Receives pre_migrate: new tables would come to the right place, and the old ones stay at the wrong one."""
    connection = connections[using]
    if connection.vendor == "postgresql" and (problem := what_is_wrong(connection)):
        raise CommandError(problem)


MAY_CREATE = """
SELECT to_regnamespace(%(quoted)s) IS NOT NULL, CASE WHEN to_regnamespace(%(quoted)s) IS NULL
    THEN has_database_privilege(current_database(), 'CREATE') ELSE has_schema_privilege(%(plain)s, 'CREATE') END,
    current_user::text, current_database()::text
"""


def create_schema(connection: BaseDatabaseWrapper) -> bool:
    """Create the schema of the setting, unless it is there. Returns whether it was created; raises CommandError, with
    what to do, where the role may not create it, or no tables in it."""
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
    return not is_there


def check_placement(databases: Iterable[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """E050: the tables are in other schemas than PGONLY["SCHEMA"] says. Runs with `check --database`."""
    found: list[checks.CheckMessage] = []
    for alias in databases or ():
        try:
            problem = what_is_wrong(connections[alias]) if connections[alias].vendor == "postgresql" else None
        except DatabaseError:
            continue  # a check may run while the server does not answer
        if problem:
            found.append(
                checks.Error(problem, hint="See docs/schema.md#move-the-tables.", id="pgonly_django.E050")
            )
    return found
