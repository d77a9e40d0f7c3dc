from __future__ import annotations

import pytest
from django.contrib.auth.management import create_permissions
from django.contrib.contenttypes.management import create_contenttypes
from django.db import connection
from django.db.backends.postgresql.operations import DatabaseOperations
from django.db.models.signals import post_migrate

from tests.pooler import pgbouncer

MARKS = "CREATE TABLE IF NOT EXISTS tests_mark (id bigserial PRIMARY KEY, key text NOT NULL)"


# Made by the migrations, and the same for every test.
KEPT = {"django_content_type", "auth_permission"}


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    """The test database, with a table in which the tests' jobs leave their marks."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(MARKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseOperations, "sql_flush", flush_what_was_written)
        post_migrate.disconnect(
            create_permissions, dispatch_uid=f"{create_permissions.__module__}.create_permissions"
        )
        post_migrate.disconnect(create_contenttypes)
        yield


truncate_all = DatabaseOperations.sql_flush


def flush_what_was_written(operations, style, tables, **options):
    """Between two transactional tests Django truncates all tables, which takes 0.16 s; most tests write into two."""
    quote = operations.quote_name
    queries = [f"(SELECT '{table}' FROM {quote(table)} LIMIT 1)" for table in set(tables) - KEPT]
    with operations.connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(queries))
        written = [table for (table,) in cursor.fetchall()]
    return truncate_all(operations, style, written, **{**options, "allow_cascade": True})


@pytest.fixture
def marks(transactional_db):
    """Reads the marks as a list of keys in order; starts empty."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE tests_mark")

    def read():
        with connection.cursor() as cursor:
            cursor.execute("SELECT key FROM tests_mark ORDER BY id")
            return [key for (key,) in cursor.fetchall()]

    return read


@pytest.fixture
def pooler():
    """The port of a PgBouncer in transaction mode before the test database's server."""
    with pgbouncer(connection.settings_dict) as port:
        yield port


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """The reports of parallel lanes travel as UTF-8; some tests log text that is none."""
    report = yield
    report.sections = [(title, text.encode(errors="replace").decode()) for title, text in report.sections]
    return report
