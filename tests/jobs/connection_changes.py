"""Tasks that change their connection, and one that looks at it."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.db import connection, transaction
from psycopg import sql

from pgonly_django import task

# Of a connection that is closed another may have the number of its process.
LOOK = """
SELECT (SELECT pid || ' since ' || backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()),
    current_user::text, current_setting('search_path'), current_setting('statement_timeout'),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
    to_regclass('pg_temp.scratch') IS NOT NULL
"""


def _execute(statements, in_transaction):
    with transaction.atomic() if in_transaction else connection.cursor(), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@task(max_attempts=1)
def execute(*statements, in_transaction=False):
    _execute(statements, in_transaction)


@task(max_attempts=1)
async def execute_async(*statements, in_transaction=False):
    await sync_to_async(_execute)(statements, in_transaction)


@task(max_attempts=1)
def look():
    with connection.cursor() as cursor:
        cursor.execute(LOOK)
        return cursor.fetchone()


@task(max_attempts=1)
def execute_composed():
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("SET ROLE {}").format(sql.Identifier("pg_monitor")))
