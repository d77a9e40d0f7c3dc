from __future__ import annotations

import pytest
from django.db import connection

from tests.pooler import pgbouncer

MARKS = "CREATE TABLE IF NOT EXISTS tests_mark (id bigserial PRIMARY KEY, key text NOT NULL)"


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    """The test database, with a table in which the tests' jobs leave their marks."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(MARKS)


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
def pooler(tmp_path):
    """The port of a PgBouncer in transaction mode before the test database's server."""
    with pgbouncer(connection.settings_dict, tmp_path) as port:
        yield port
