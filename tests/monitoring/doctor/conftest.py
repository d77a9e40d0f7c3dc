from __future__ import annotations

import contextlib
import sys

import django
import psycopg
import pytest
from django.core.management import call_command
from django.db import connections

from pgonly_django.compat import TESTED
from pgonly_django.conf import schema
from pgonly_django.embedded import Server
from pgonly_django.monitoring.doctor.examination import examine
from tests.aliases import alias
from tests.in_memory import new_server
from tests.process.conftest import hangups_end_processes, workers  # noqa: F401 - fixtures
from tests.sql import sql as execute

# As few settings as the tests here need, none of which may be set without a restart.
OPTIONS = ("max_connections=40", "wal_level=logical", "max_prepared_transactions=2", "fsync=off")


def at(name):
    """An index, or a table that is none of ours, with the schema of our tables: SQL of tests has it before those."""
    return f'"{schema()}".{name}' if schema() else name


def found(*subjects, database="default"):
    """The findings of these subjects by id; of several with one id the last."""
    return {each.id: each for each in examine(database, only=subjects).findings}


@pytest.fixture(scope="session")
def major(django_db_setup, django_db_blocker):
    """The version of the server."""
    with django_db_blocker.unblock():
        return connections["default"].pg_version // 10_000


@pytest.fixture(autouse=True)
def versions_are_tested(major, monkeypatch):
    """What is newer than tested, as pre-releases are, has a finding, and no test here is about it but its own."""
    running = {"Python": sys.version_info[:2], "Django": django.VERSION[:2], "PostgreSQL": (major,)}
    for name, version in running.items():
        monkeypatch.setitem(TESTED, name, max(TESTED[name], version))


@pytest.fixture
def sql(transactional_db):
    """Executes statements one by one, in autocommit; what they return of the last one."""

    return lambda *statements: [execute(statement) for statement in statements][-1]


class OwnServer:
    """A server that a test may break, as the alias "own"."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def execute(self, *statements):
        """Each in autocommit, on a new connection; what the last one returns."""
        writing = "-c default_transaction_read_only=off"
        with psycopg.connect(self.server.url(), autocommit=True, options=writing) as raw:
            for statement in statements:
                answer = raw.execute(statement)
            return answer.fetchall() if answer.description else None

    def set(self, **settings):
        self.execute(
            *(f"ALTER SYSTEM SET {name} = {value}" for name, value in settings.items()),
            "SELECT pg_reload_conf()",
        )

    def found(self, *subjects):
        connections["own"].close()
        return found(*subjects, database="own")

    def restart(self):
        connections["own"].close()
        self.server.restart()


@contextlib.contextmanager
def as_alias(server, name="own", **changes):
    test = {**connections.settings["default"]["TEST"], "NAME": "postgres"}
    place = {
        "HOST": str(server.socket_directory),
        "PORT": "",
        "NAME": "postgres",
        "USER": "postgres",
        "PASSWORD": "",
    }
    with alias(name, TEST=test, **{**place, **changes}):
        yield


def migrate():
    call_command("migrate", "pgonly_django", database="own", verbosity=0, skip_checks=True)


@pytest.fixture(scope="session")
def running_server(django_db_setup, django_db_blocker):
    """With our tables."""
    with new_server(options=OPTIONS) as server:
        with django_db_blocker.unblock(), as_alias(server):  # no longer: later tests need the guard
            migrate()
        yield server


@pytest.fixture
def own_server(running_server, transactional_db, any_database):
    with as_alias(running_server):
        server = OwnServer(running_server)
        yield server
        server.execute("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()", "ALTER ROLE postgres RESET ALL")


@pytest.fixture
def server_to_ruin(transactional_db, any_database):
    """The same, for a test after which nothing else can use it."""
    with new_server(options=OPTIONS) as server, as_alias(server):
        migrate()
        yield OwnServer(server)


@pytest.fixture
def pretend(own_server):
    """`pretend(statement, ...)`: makes these things in a schema that comes before pg_catalog for the alias "fake"."""
    own_server.execute("DROP SCHEMA IF EXISTS fake CASCADE", "CREATE SCHEMA fake")
    options = {"options": "-c search_path=fake,pg_catalog,public"}
    with as_alias(own_server.server, "fake", OPTIONS=options):

        def make(*statements, **settings):
            in_fake = "SET search_path = fake, pg_catalog, public"
            own_server.execute("; ".join([in_fake, *statements]))
            if settings:
                chosen = "".join(f" -c {name.replace('__', '.')}={value}" for name, value in settings.items())
                connections["fake"].close()
                connections["fake"].settings_dict["OPTIONS"]["options"] = options["options"] + chosen

        yield make
    own_server.execute("DROP SCHEMA fake CASCADE")


def version(text):
    return f"CREATE FUNCTION version() RETURNS text LANGUAGE sql AS $$ SELECT '{text}'::text $$"
