"""manage.py pgonly_schema: shows in which schema the tables are, and moves them to where PGONLY["SCHEMA"] says."""

from __future__ import annotations

from argparse import SUPPRESS
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from pgonly_django.conf import schema
from pgonly_django.database.moving import Moved, move
from pgonly_django.database.placement import described, find, what_is_wrong


class Command(BaseCommand):
    help = (
        'Without an action: in which schema the tables are. `move` brings them where PGONLY["SCHEMA"] says.'
    )
    requires_system_checks = ()  # one of them says that the tables are elsewhere

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="its alias in DATABASES")
        actions = parser.add_subparsers(dest="action", title="actions")
        moving = actions.add_parser("move", help="move all tables, in one transaction")
        moving.add_argument("--database", default=SUPPRESS, help="its alias in DATABASES")
        moving.add_argument(
            "--from", dest="source", help="the schema to move from, where several have such tables"
        )
        moving.add_argument(
            "--lock-timeout",
            type=float,
            default=5.0,
            help="seconds to wait for other transactions. Default: 5.",
        )
        moving.add_argument(
            "--while-running",
            action="store_true",
            help="do not ask whether workers run (docs/how-to/schema.md)",
        )

    def handle(self, *_: Any, action: str | None = None, database: str, **options: Any) -> None:
        connection = _connection(database)
        if action == "move":
            moved = move(
                connection, options["source"], options["lock_timeout"], while_running=options["while_running"]
            )
            self._tell(connection, moved)
        else:
            self._show(connection)

    def _show(self, connection: BaseDatabaseWrapper) -> None:
        placement = find(connection)
        setting = f'PGONLY["SCHEMA"] is "{schema()}".' if schema() else 'PGONLY has no "SCHEMA".'
        self.stdout.write(f"{setting} Tables at their place: {len(placement.at_place)}.")
        if placement.elsewhere:
            self.stdout.write(f"Tables elsewhere: {described(placement.elsewhere)}.")
        if problem := what_is_wrong(connection):
            raise CommandError(problem)

    def _tell(self, connection: BaseDatabaseWrapper, moved: Moved) -> None:
        write = self.stdout.write
        if not moved.tables:
            count = len(find(connection).at_place)
            write(f"Nothing to move: {count} tables are at their place.")
            return
        if moved.has_created_schema:
            write(f'Created schema "{moved.target}".')
        write(
            f'Moved {len(moved.tables)} tables from "{moved.source}" to "{moved.target}": {", ".join(moved.tables)}.'
        )
        if moved.granted_to:
            write(f'Granted USAGE on schema "{moved.target}" to {", ".join(moved.granted_to)}.')


def _connection(alias: str) -> BaseDatabaseWrapper:
    if alias not in connections:
        raise CommandError(f"--database {alias!r} is not in DATABASES. Known: {', '.join(connections)}.")
    if connections[alias].vendor != "postgresql":
        raise CommandError(
            f"DATABASES[{alias!r}] is {connections[alias].vendor}; only PostgreSQL has schemas."
        )
    return connections[alias]
