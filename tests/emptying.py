"""What the transactional tests have written is gone behind each of them.

Django truncates all tables, which takes 0.16 s, and reads the catalog before. Most tests write some rows into two or
three tables. Then the DELETEs take 3 ms of CPU, and a TRUNCATE of the jobs with their twelve indexes alone 15.
"""

from __future__ import annotations

from contextlib import suppress

from asgiref.sync import SyncToAsync
from django.db import connections, transaction

SMALL_BYTES = (
    131_072  # what is larger is truncated: its pages, also those of large values, would be in the next test
)
# Made by the migrations, and the same for every test.
KEPT = {"django_content_type", "auth_permission"}
# A table that was written to since its last TRUNCATE has pages, or its large values have.
WRITTEN = """
SELECT name, bytes FROM unnest(%s::text[]) AS name, to_regclass(name) AS found, pg_table_size(found) AS bytes
WHERE pg_relation_size(found) > 0 OR bytes > %s ORDER BY name
"""

_names: dict[str, list[str]] = {}


def empty_tables(test) -> None:
    """In place of TransactionTestCase._fixture_teardown()."""
    close_those_of_async_code()
    for alias in test._databases_names(include_mirrors=False):
        connection = connections[alias]
        if not connection.get_autocommit():  # a test has turned it off, and nothing here would be committed
            connection.rollback()
            connection.set_autocommit(True)
        with transaction.atomic(using=alias), connection.cursor() as cursor:
            cursor.execute(WRITTEN, [_tables(connection), SMALL_BYTES])
            sizes = dict(cursor.fetchall())
            if sizes:
                # As a TRUNCATE does, it waits for statements that are still running.
                cursor.execute(f"LOCK TABLE {', '.join(sizes)}")
                cursor.execute("; ".join(_emptying(sizes)))


def close_those_of_async_code() -> None:
    """The thread in which asyncio.run() had its ORM calls run lives as long as the process. A connection that it keeps
    has the name of the worker that ran then, and no test database can be dropped while it is open."""
    if SyncToAsync.single_thread_executor._threads:
        with suppress(TimeoutError):  # a test has left it something that does not end
            SyncToAsync.single_thread_executor.submit(connections.close_all).result(1)


def _tables(connection) -> list[str]:
    """Quoted. Those of all installed models, read once: a test may drop one, and make it again."""
    if connection.alias not in _names:
        tables = set(connection.introspection.django_table_names(include_views=False)) - KEPT
        _names[connection.alias] = [connection.ops.quote_name(table) for table in sorted(tables)]
    return _names[connection.alias]


def _emptying(sizes: dict[str, int]) -> list[str]:
    """Foreign keys are checked at the commit, when those that referred to a row are gone too."""
    large = [name for name, size in sizes.items() if size > SMALL_BYTES]
    truncate = [f"TRUNCATE {', '.join(large)} CASCADE"] if large else []
    return [*truncate, *(f"DELETE FROM {name}" for name in sizes if name not in large)]
