"""Operations of migrations. Those that come after 0001 run beside live workers and sites: killed in the middle, they
can be run again."""

import time

from django.apps import apps
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import OperationalError, migrations, router, transaction
from django.db.migrations.operations.base import Operation
from psycopg.errors import LockNotAvailable

from pgonly_django.conf import schema
from pgonly_django.database.placement import create_schema

LOCK_WAIT, PAUSE_SECONDS, TRIES = "1s", 1.0, 60
LOCKED = (
    "Some transaction has read or changed this table for minutes and is still open. Nothing was changed by these "
    "operations: run migrate again when it is over."
)


class CreateSchema(Operation):
    """The schema of PGONLY["SCHEMA"], where one of our tables may come to this database. Backwards it stays: it may
    hold what others have made."""

    reversible = True

    def state_forwards(self, app_label, state):
        pass

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        alias = schema_editor.connection.alias
        models = apps.get_app_config(app_label).get_models()
        if not schema() or not any(router.allow_migrate_model(alias, model) for model in models):
            return
        if schema_editor.collect_sql:
            schema_editor.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema()}"')
        else:
            create_schema(schema_editor.connection)

    def database_backwards(self, app_label, schema_editor, from_state, to_state):
        pass

    def describe(self):
        return (
            f'Create schema "{schema()}"' if schema() else "Create no schema: tables follow the search_path"
        )


class AddIndexBesideWriters(AddIndexConcurrently):
    """CREATE INDEX CONCURRENTLY, which leaves an invalid index where it is killed: so what has its name is
    dropped first. Inside a transaction of the caller it is built as any other, since there it cannot be otherwise."""

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        model = to_state.apps.get_model(app_label, self.model_name)
        if not self.allow_migrate_model(schema_editor.connection.alias, model):
            return
        if schema_editor.connection.in_atomic_block:
            schema_editor.add_index(model, self.index)
            return
        if not schema_editor.collect_sql:
            schema_editor.remove_index(model, self.index, concurrently=True)
        schema_editor.add_index(model, self.index, concurrently=True)

    def database_backwards(self, app_label, schema_editor, from_state, to_state):
        model = from_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            is_free = not schema_editor.connection.in_atomic_block
            schema_editor.remove_index(model, self.index, concurrently=is_free)


class InOneTransaction(migrations.SeparateDatabaseAndState):
    """Does all of these operations, or none, in a migration with atomic = False.

    A new column needs its table alone for a moment. While it waits for a transaction that has read the table, all
    others would wait after it, and with them every claim. So it waits for LOCK_WAIT only, lets the others through for
    PAUSE_SECONDS, and tries again.
    """

    atomic = True

    def __init__(self, operations):
        super().__init__(operations, operations)

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        if not schema_editor.collect_sql:
            self._lock(app_label, schema_editor, from_state)
        super().database_forwards(app_label, schema_editor, from_state, to_state)
        self._create_indexes(schema_editor)

    def database_backwards(self, app_label, schema_editor, from_state, to_state):
        super().database_backwards(app_label, schema_editor, from_state, to_state)
        self._create_indexes(schema_editor)

    def _lock(self, app_label, schema_editor, state):
        """The tables that get columns, and that are there."""
        alias = schema_editor.connection.alias
        added = (each for each in self.database_operations if isinstance(each, migrations.AddField))
        names = sorted(
            {each.model_name_lower for each in added if (app_label, each.model_name_lower) in state.models}
        )
        tables = [
            schema_editor.quote_name(model._meta.db_table)  # noqa: SLF001 - Django's documented Meta API
            for model in (state.apps.get_model(app_label, name) for name in names)
            if self.allow_migrate_model(alias, model)
        ]
        for left in reversed(range(TRIES if tables else 0)):
            try:
                with transaction.atomic(using=alias):
                    schema_editor.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
                    schema_editor.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
            except OperationalError as error:
                if not isinstance(error.__cause__, LockNotAvailable):
                    raise
                if not left:
                    error.add_note(LOCKED)
                    raise
                time.sleep(PAUSE_SECONDS)
            else:
                return

    def _create_indexes(self, schema_editor):
        """Creates what Django puts off until the end of the migration, which would be after this transaction."""
        for statement in schema_editor.deferred_sql:
            schema_editor.execute(statement)
        schema_editor.deferred_sql.clear()

    def deconstruct(self):
        return self.__class__.__qualname__, [self.database_operations], {}
