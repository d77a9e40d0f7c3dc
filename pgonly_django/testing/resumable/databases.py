"""Copies of the test databases. A run begins with a fresh copy of each, and nothing that it does reaches the test's."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from asgiref.sync import SyncToAsync
from django.db import Error as DatabaseError
from django.db import connections
from psycopg import errors

from pgonly_django.database import pool, testrun
from pgonly_django.database.connect import connection_params
from pgonly_django.testing.resumable.errors import NotTestableError

PREFIX = "pgonly_resumable"
OTHER_CLIENTS = """
SELECT coalesce(nullif(application_name, ''), 'no application_name') || ', process ' || pid FROM pg_stat_activity
WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
IN_TRANSACTION = (
    "assert_resumable() copies the test database, and what this test has written is in a transaction ({alias!r}), "
    "which no copy contains. Use django.test.TransactionTestCase, or in pytest "
    "@pytest.mark.django_db(transaction=True)."
)
IN_USE = (
    "The test database {name} cannot be copied while others are connected to it: {clients}. Close those connections "
    "before assert_resumable(): end the threads and workers that the test has started."
)
NOT_ALLOWED = (
    "assert_resumable() makes copies of the test database {name}, and PostgreSQL does not allow it: {error} Give the "
    "role {user!r} CREATEDB."
)


class Databases:
    """The test databases of the aliases that have one."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._group_of: dict[str, str] = {}  # the first alias with the same database, by alias
        groups: dict[tuple[Any, ...], str] = {}
        for alias in connections:
            settings = connections.settings[alias]
            source = settings["TEST"]["MIRROR"] or alias
            if connections[source].vendor == "postgresql" and not testrun.has_usual_database(source):
                self._group_of[alias] = groups.setdefault(_place(source), source)

    @property
    def aliases(self) -> list[str]:
        return list(self._group_of)

    @property
    def groups(self) -> list[str]:
        """One alias for each database."""
        return list(dict.fromkeys(self._group_of.values()))

    @contextmanager
    def template(self) -> Iterator[dict[str, str]]:
        """A copy of what the test has prepared. The names are by alias, here and below."""
        for alias in self.aliases:
            if connections[alias].in_atomic_block:
                raise NotTestableError(IN_TRANSACTION.format(alias=alias))
        _close_those_of_async_tests()
        pool.close_all_idle()  # of the cache
        for group in self.groups:
            self._drop_those_of_earlier_tests(group)
        with self._copied({group: connections.settings[group]["NAME"] for group in self.groups}) as names:
            yield names

    @contextmanager
    def copy(self, template: dict[str, str]) -> Iterator[dict[str, str]]:
        with self._copied({group: template[group] for group in self.groups}) as names:
            yield names

    @contextmanager
    def inside(self, names: dict[str, str]) -> Iterator[None]:
        """Django's connections of this thread lead to these databases."""
        before = {alias: connections.settings[alias]["NAME"] for alias in names}
        self._switch(names)
        try:
            yield
        finally:
            self._switch(before)

    def settings_for(self, alias: str, names: dict[str, str]) -> dict[str, Any] | None:
        """The entry in DATABASES for a child process; None for an alias without a test database."""
        if alias not in names:
            return None
        settings = dict(connections.settings[self._group_of[alias]])
        test = {**settings["TEST"], "NAME": names[alias], "MIRROR": None}
        return {**settings, "NAME": names[alias], "TEST": test}

    @contextmanager
    def _copied(self, sources: dict[str, str]) -> Iterator[dict[str, str]]:
        number, made = next(self._numbers), {}
        try:
            for group, source in sources.items():
                made[group] = f"{_prefix(group)}_{number}"
                self._create(group, made[group], source)
            yield {alias: made[group] for alias, group in self._group_of.items()}
        finally:
            for group, name in made.items():
                _drop(group, name)

    def _create(self, group: str, name: str, source: str) -> None:
        self._switch({})
        try:
            _execute(group, f"CREATE DATABASE {_quoted(group, name)} TEMPLATE {_quoted(group, source)}")
            # The server outlives the runs, so no commit has to wait for the disk.
            _execute(group, f"ALTER DATABASE {_quoted(group, name)} SET synchronous_commit = off")
        except DatabaseError as error:
            if isinstance(error.__cause__, errors.ObjectInUse):
                clients = "; ".join(client for (client,) in _execute(group, OTHER_CLIENTS, [source]))
                raise NotTestableError(IN_USE.format(name=source, clients=clients or "gone by now")) from None
            if isinstance(error.__cause__, errors.InsufficientPrivilege):
                user = connections.settings[group]["USER"]
                raise NotTestableError(NOT_ALLOWED.format(name=source, error=error, user=user)) from None
            raise

    def _switch(self, names: dict[str, str]) -> None:
        for alias in self.aliases:
            connection: Any = connections[alias]
            connection.close()
            connection.close_pool()
        for alias, name in names.items():
            connections.settings[alias]["NAME"] = name

    def _drop_those_of_earlier_tests(self, group: str) -> None:
        """A test's process that was killed leaves its copies behind."""
        pattern = _prefix(group).replace("_", r"\_") + r"\_%"
        for (name,) in _execute(group, "SELECT datname FROM pg_database WHERE datname LIKE %s", [pattern]):
            _drop(group, name)


def connect_to(alias: str, name: str) -> psycopg.Connection[Any]:
    """Beside Django, whose test may have only some aliases."""
    params = connection_params(alias, application_name="pgonly assert_resumable")
    return psycopg.connect(**{**params, "dbname": name}, autocommit=True)


def _place(alias: str) -> tuple[Any, ...]:
    settings = connections.settings[alias]
    options = settings["OPTIONS"]
    return (
        settings["HOST"],
        str(settings["PORT"]),
        settings["NAME"],
        options.get("host"),
        options.get("service"),
    )


def _prefix(group: str) -> str:
    """Of the copies of this test database: no other process has the same one at the same time."""
    digest = hashlib.sha256(repr(_place(group)).encode()).hexdigest()[:12]
    return f"{PREFIX}_{digest}"


def _quoted(group: str, name: str) -> str:
    quoted: str = connections[group].ops.quote_name(name)
    return quoted


def _drop(group: str, name: str) -> None:
    _execute(group, f"DROP DATABASE IF EXISTS {_quoted(group, name)} WITH (FORCE)")


def _execute(group: str, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
    """On a connection to another database of the server, as Django makes its test databases."""
    with connections[group]._nodb_cursor() as cursor:  # noqa: SLF001 - Django's own for this
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


def _close_those_of_async_tests() -> None:
    """An async test of pytest-asyncio leaves Django's connections open in the thread in which sync_to_async() runs
    its functions. That thread belongs to no test, and would keep the database from being copied."""
    if not SyncToAsync.deadlock_context.get(False):  # else this is that thread, or it waits for this one
        SyncToAsync.single_thread_executor.submit(connections.close_all).result()
