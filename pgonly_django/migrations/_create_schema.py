from django.apps import apps
from django.db import router
from django.db.migrations.operations.base import Operation

from pgonly_django.conf import schema
from pgonly_django.database.placement import create_schema


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
