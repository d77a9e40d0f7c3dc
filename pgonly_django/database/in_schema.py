"""Makes Django find tables in a schema, which it only names: `db_table = '"schema"."table"'`.

Django looks tables up by their plain names, and only where the search_path leads. So its flush() between tests would
leave our rows, `migrate --fake-initial` would not see our tables, DROP INDEX would drop nothing, and
select_for_update(of=...) would be an error. Each connection learns it when it opens, and nothing changes for the other
tables. Without PGONLY["SCHEMA"] nothing here is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper  # before introspection, which imports it
from django.db.backends.postgresql.introspection import DatabaseIntrospection, TableInfo

from pgonly_django.conf import schema
from pgonly_django.tables import TABLES, name_of, table


def extend(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Receives connection_created. The classes may be PostGIS' or those of another backend made from Django's."""
    if connection.vendor != "postgresql":
        return
    parts: list[tuple[Any, Any]] = [(connection.introspection, _Introspection), (connection.ops, _Operations)]
    for part, extension in parts:
        # The same object: a method of it that has just opened the connection continues with this class.
        base: Any = type(part)
        part.__class__ = _extended(extension, base)
    connection.SchemaEditorClass = _extended(_SchemaEditor, connection.SchemaEditorClass)


@cache
def _extended(extension: Any, base: Any) -> Any:
    return base if issubclass(base, extension) else type(base.__name__, (extension, base), {})


def _is_ours(db_table: str) -> bool:
    return db_table != name_of(db_table) in TABLES


IN_SCHEMA = """
SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relname = ANY (%s) AND relkind IN ('r', 'p')
"""


class _Introspection:
    """Asks Django's own methods for our tables. Those of a backend in between may search elsewhere: django-tenants'
    set the search_path of the tenant."""

    connection: DatabaseWrapper

    def get_table_list(self, cursor: Any) -> list[TableInfo]:
        found: list[TableInfo] = super().get_table_list(cursor)  # type: ignore[misc]  # Django's class is the next base
        cursor.execute(IN_SCHEMA, [f'"{schema()}"', list(TABLES)])
        return [*found, *(TableInfo(table(name), "t", None) for (name,) in cursor.fetchall())]

    def get_table_description(self, cursor: Any, table_name: str) -> Any:
        return self._of_table("get_table_description", cursor, table_name)

    def get_constraints(self, cursor: Any, table_name: str) -> Any:
        return self._of_table("get_constraints", cursor, table_name)

    def get_sequences(self, cursor: Any, table_name: str, table_fields: Any = ()) -> list[dict[str, Any]]:
        found = self._of_table("get_sequences", cursor, table_name, table_fields)
        return [{**each, "table": table_name} for each in found]

    def _of_table(self, method: str, cursor: Any, table_name: str, *arguments: Any) -> Any:
        if not _is_ours(table_name):
            return getattr(super(), method)(cursor, table_name, *arguments)
        with self._searching(cursor):
            return getattr(DatabaseIntrospection, method)(self, cursor, name_of(table_name), *arguments)

    @contextmanager
    def _searching(self, cursor: Any) -> Iterator[None]:
        """Searches only our schema inside the block."""
        with transaction.atomic(using=self.connection.alias):
            cursor.execute("SELECT current_setting('search_path')")
            before = cursor.fetchone()[0]
            cursor.execute(SET_PATH, [f'"{schema()}"'])
            yield
            cursor.execute(SET_PATH, [before])


SET_PATH = "SELECT set_config('search_path', %s, true)"


class _Operations:
    def for_update_sql(self, *, of: Sequence[str] = (), **options: Any) -> str:
        """FOR UPDATE OF takes the name that a table has in the query, which is the one without its schema."""
        of = [f'"{name_of(each)}"' if _is_ours(each) else each for each in of]
        return super().for_update_sql(of=of, **options)  # type: ignore[misc,no-any-return]  # as above


class _SchemaEditor:
    """Indexes and constraints are created in the schema of their table, but found again by their own name."""

    sql_delete_index: str
    sql_delete_fk: str

    def _delete_index_sql(self, model: Any, *arguments: Any, **options: Any) -> Any:
        return _qualify(super()._delete_index_sql(model, *arguments, **options), model, "name")  # type: ignore[misc]  # as above

    def _rename_index_sql(self, model: Any, *arguments: Any) -> Any:
        return _qualify(super()._rename_index_sql(model, *arguments), model, "old_name")  # type: ignore[misc]  # as above

    def _delete_constraint_sql(self, template: str, model: Any, name: str) -> Any:
        """A constraint that is a unique index, since it has a condition, is dropped as one. SET CONSTRAINTS runs before
        a foreign key is dropped."""
        if _is_ours(model._meta.db_table) and template == self.sql_delete_fk:  # noqa: SLF001 - Django's documented Meta API
            template = template.replace("CONSTRAINTS %(name)s", f'CONSTRAINTS "{schema()}".%(name)s')
        statement = super()._delete_constraint_sql(template, model, name)  # type: ignore[misc]  # as above
        return _qualify(statement, model, "name") if template == self.sql_delete_index else statement


def _qualify(statement: Any, model: Any, part: str) -> Any:
    if statement is not None and _is_ours(model._meta.db_table):  # noqa: SLF001 - Django's documented Meta API
        statement.parts[part] = f'"{schema()}".{statement.parts[part]}'
    return statement
