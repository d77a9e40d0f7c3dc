"""Runs code inside a TestCase's transaction as in a worker: as if each of its statements, and each of its outermost
atomic() blocks, were committed.

Django's own state machine does the work. It is told that no transaction is open, and what it would send as BEGIN,
COMMIT and ROLLBACK becomes a savepoint. So on_commit() functions run at the end of the job's own atomic(), what a job
wrote before it failed stays, and a statement that fails leaves the test's transaction usable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

from django.db import connections
from psycopg.pq import TransactionStatus

from pgonly_django.database.operation import run
from pgonly_django.database.statement import Statement, Values
from pgonly_django.database.testcase import CALLS, TestcaseConnection
from pgonly_django.exceptions import PgonlyError
from pgonly_django.worker.django_connections import LEFT_OPEN, ChangeWatch, has_written

# Of Django's connection: the state that a connection without a transaction has.
_NO_TRANSACTION: dict[str, Any] = {
    "in_atomic_block": False,
    "autocommit": True,
    "commit_on_exit": True,
    "needs_rollback": False,
    "run_commit_hooks_on_set_autocommit_on": False,
}
_WHOLE, _TRANSACTION, _STATEMENT = "pgonly_drain", "pgonly_drain_transaction", "pgonly_drain_statement"
_READS = ("SELECT", "SAVEPOINT", "RELEASE", "ROLLBACK", "SET", "SHOW", "EXPLAIN", "DECLARE", "FETCH", "CLOSE")
# Settings that a job changes. A worker's SET LOCAL ends with the job's transaction, and a worker closes a connection on
# which a job has left a SET. In a TestCase both would last until the test ends, so they are put back when a worker's
# would be over. What is not named here cannot be put back: SET TRANSACTION, SET CONSTRAINTS, SET SESSION ....
_SET = re.compile(
    r"(?:^|;|\*/)\s*(?:set\s+(?P<scope>local\s+|session\s+)?|(?P<reset>reset\s+))"
    r"(?!transaction|constraints|characteristics|authorization|all\b)(?P<name>time\s+zone|[\w.]+|\"[^\"]+\")",
    re.IGNORECASE,
)
_SET_CONFIG = re.compile(
    r"set_config\s*\(\s*'(?P<name>[^']+)'.*?,\s*(?P<is_local>true|false|'t\w*'|'f\w*')(?:::\w+)?\s*\)",
    re.IGNORECASE | re.DOTALL,
)
_SETTING_NAMES = {"schema": "search_path", "names": "client_encoding"}
_SAVEPOINT = re.compile(r'\s*(SAVEPOINT|RELEASE|ROLLBACK\s+TO)(?:\s+SAVEPOINT)?\s+"?(\w+)', re.IGNORECASE)


class CommitWatch:
    """Is told what the code commits. One that raises an exception ends the code there."""

    def check(self) -> None:
        """Called before whatever the code would write."""

    def committed(self, sql: str) -> None:
        """`sql`: the statement, or the last one that wrote in its transaction."""

    def called(self, statement: Statement) -> None:
        """Called when a pool (of the cache or limits) has sent a statement: no transaction takes it back."""


@contextmanager
def as_in_autocommit(watch: CommitWatch | None = None) -> Iterator[list[str]]:
    """Applies it to all connections of this thread. What the code leaves open is rolled back at the end: the list has
    the aliases where it had written in such a transaction."""
    lost: list[str] = []
    with ExitStack() as ends:
        for connection in connections.all(initialized_only=True):
            if _is_in_transaction(connection):
                ends.enter_context(_simulated(connection, lost, watch or CommitWatch()))
        simulated = {each.alias for each in connections.all(initialized_only=True) if _is_simulated(each)}
        ends.enter_context(_closing_what_is_changed(simulated, lost))
        yield lost


def _is_in_transaction(connection: Any) -> bool:
    """Returns whether it is in a test's transaction. A drained job that drains others is told that it is in none."""
    return connection.in_atomic_block or _is_simulated(connection)


def _is_simulated(connection: Any) -> bool:
    return "_set_autocommit" in vars(connection)


@contextmanager
def _simulated(connection: Any, lost: list[str], watch: CommitWatch) -> Iterator[None]:
    commits = _SimulatedCommits(connection, watch)
    state, replaced = vars(connection), commits.attributes()
    before = {name: state[name] for name in replaced if name in state}
    commits.send("SAVEPOINT", _WHOLE)
    state.update(replaced)
    try:
        yield
    finally:
        try:
            if commits.end():
                lost.append(connection.alias)
        finally:
            for name in replaced:
                state.pop(name, None)
            state.update(before)


class _SimulatedCommits:
    def __init__(self, connection: Any, watch: CommitWatch) -> None:
        self.connection, self.watch = connection, watch
        self._is_begun = False  # a transaction of the job, which is a savepoint
        self._last_write = ""  # in it
        # Settings that the code has changed, with their values from before.
        self._local: dict[str, str | None] = {}  # by SET LOCAL, in the transaction that is open
        self._session: dict[str, str | None] = {}
        # Calls of pools during the transaction, and how many there were at each of its savepoints.
        self._calls: list[tuple[Statement, Values]] = []
        self._calls_at: dict[str, int] = {}

    def attributes(self) -> dict[str, Any]:
        """Returns the connection's attributes while the code runs. Its lists are new: Django's keep their entries."""
        connection = self.connection
        return _NO_TRANSACTION | {
            # Those of the test stay: the cache and others look for the mark of a TestCase in them.
            "atomic_blocks": [each for each in connection.atomic_blocks if each._from_testcase],  # noqa: SLF001 - Django's sign
            "savepoint_ids": [],
            "run_on_commit": [],
            "execute_wrappers": [self._execute, *connection.execute_wrappers],
            # What each database backend overrides.
            "_set_autocommit": self._set_autocommit,
            "_commit": self._commit,
            "_rollback": self._rollback,
            "_start_transaction_under_autocommit": self._begin,  # SQLite's
            "close": lambda: None,  # the next statement of a job would connect again
            CALLS: self,
        }

    def end(self) -> bool:
        """Returns whether rows are lost: the job left a transaction open, or in a state that cannot continue."""
        is_lost = self._is_begun and bool(self._last_write)
        if self._is_begun:
            self._rollback()
        if self._is_broken:
            is_lost = True
            self.send("ROLLBACK TO SAVEPOINT", _WHOLE)
        else:
            self._put_back(self._session)
        self.send("RELEASE SAVEPOINT", _WHOLE)
        return is_lost

    # What database/testcase.py calls around each call of a pool.

    def before_call(self) -> None:
        self.watch.check()

    def after_call(self, statement: Statement, values: Values) -> None:
        if self._is_begun and not _reads(statement.sql):
            self._calls.append((statement, values))
        self.watch.called(statement)

    @property
    def _is_broken(self) -> bool:
        """Whether PostgreSQL takes no statement before a rollback."""
        connection = self.connection
        if connection.vendor != "postgresql":
            return False
        return bool(connection.connection.info.transaction_status == TransactionStatus.INERROR)

    def _execute(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        """Runs around each statement of Django's cursors."""
        self.watch.check()
        if not self.connection.autocommit:
            return self._execute_in_transaction(execute, sql, params, many, context)
        self.send("SAVEPOINT", _STATEMENT)
        try:
            self._note_settings(sql, params)
            answer = execute(sql, params, many, context)
        except BaseException:
            self.send("ROLLBACK TO SAVEPOINT", _STATEMENT)
            self.send("RELEASE SAVEPOINT", _STATEMENT)
            self._local.clear()
            raise
        self.send("RELEASE SAVEPOINT", _STATEMENT)
        self._put_back(self._local)
        if not _reads(sql):
            self.watch.committed(str(sql))
        return answer

    def _execute_in_transaction(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        if not self._is_begun:  # the job has switched autocommit off, and has committed once
            self._begin()
        if not _reads(sql):
            self._last_write = str(sql)
        self._note_settings(sql, params)
        answer = execute(sql, params, many, context)
        if savepoint := _SAVEPOINT.match(str(sql)):
            self._at_savepoint(savepoint[1].upper(), savepoint[2])
        return answer

    def _at_savepoint(self, verb: str, name: str) -> None:
        if verb == "SAVEPOINT":
            self._calls_at[name] = len(self._calls)
        elif verb != "RELEASE":
            self._repeat_calls(self._calls_at.get(name, 0))

    def _begin(self) -> None:
        self.send("SAVEPOINT", _TRANSACTION)
        self._is_begun, self._last_write = True, ""
        self._calls, self._calls_at = [], {}

    def _set_autocommit(self, autocommit: bool) -> None:
        if not autocommit:
            self.watch.check()
            self._begin()
        elif self._is_begun:
            self._commit()

    def _commit(self) -> None:
        """Commits. A transaction in which a statement has failed is rolled back, as PostgreSQL does at its COMMIT."""
        if self._is_broken:
            self._rollback()
        elif self._is_begun:
            try:
                self.watch.check()
            except BaseException:
                self._rollback()
                raise
            self.send("RELEASE SAVEPOINT", _TRANSACTION)
            self._is_begun = False
            self._put_back(self._local)
            self.watch.committed(self._last_write)

    def _rollback(self) -> None:
        if self._is_begun:
            self.send("ROLLBACK TO SAVEPOINT", _TRANSACTION)
            self.send("RELEASE SAVEPOINT", _TRANSACTION)
            self._is_begun = False
            self._local.clear()  # a rollback puts them back by itself
            self._repeat_calls(0)

    def _repeat_calls(self, first: int) -> None:
        """Repeats what a pool has written: it is not part of the code's transaction, and the rollback took it along."""
        for statement, values in self._calls[first:]:
            with suppress(PgonlyError):
                run(
                    TestcaseConnection(self.connection.connection.pgconn, timeout=10).call(
                        statement, values, 10
                    )
                )

    def _note_settings(self, sql: Any, params: Any) -> None:
        """Called before each statement of the job."""
        text = str(sql)
        lowered = text.lower()
        if self.connection.vendor != "postgresql" or "set" not in lowered or self._is_broken:
            return
        if "set_config" in lowered and params:
            text = self.connection.ops.compose_sql(text, params)
        for name, is_local in _changed_settings(text):
            value = self._fetch("SELECT current_setting(%s, true)", name)
            if value is None and "." not in name:
                continue  # no setting: the text was read wrongly, or PostgreSQL will say so
            if is_local:
                self._local.setdefault(name, value)
            else:  # what SET LOCAL has set before is replaced, also after the transaction
                self._session.setdefault(name, self._local.pop(name, value))

    def _put_back(self, settings: dict[str, str | None]) -> None:
        """Restores settings. One that did not exist is empty from now on, as it is in PostgreSQL after a SET LOCAL."""
        before = sorted(settings.items(), key=lambda each: each[0] != "role")  # which may set the others
        settings.clear()
        for name, value in before:
            self._fetch("SELECT set_config(%s, %s, false)", name, value or "")

    def _fetch(self, query: str, *params: str) -> str | None:
        with closing(self.connection.connection.cursor()) as cursor:
            cursor.execute(query, params)
            value: str | None = cursor.fetchone()[0]
            return value

    def send(self, verb: str, savepoint: str) -> None:
        """Sends statements without Django's cursor: queries that a test counts are those of the job."""
        with closing(self.connection.connection.cursor()) as cursor:
            cursor.execute(f"{verb} {savepoint}")


def _changed_settings(text: str) -> Iterator[tuple[str, bool]]:
    """Yields the name of each setting that the statements change, and whether only for the transaction."""
    for found in _SET.finditer(text):
        name = found["name"].strip('"').lower()
        is_local = not found["reset"] and (found["scope"] or "").strip().lower() == "local"
        name = "timezone" if name.startswith("time") and " " in name else _SETTING_NAMES.get(name, name)
        if not name.startswith("transaction_"):
            yield name, is_local
    for found in _SET_CONFIG.finditer(text):
        yield found["name"].lower(), found["is_local"].strip("'").lower().startswith("t")


def _reads(sql: Any) -> bool:
    return str(sql).lstrip().upper().startswith(_READS)


@contextmanager
def _closing_what_is_changed(simulated: set[str], lost: list[str]) -> Iterator[None]:
    """Used outside of a TestCase, where transactions are real. A connection on which the job has left one open, a
    setting or a lock is closed, as by a worker."""
    watches: dict[str, ChangeWatch] = {}
    for connection in connections.all(initialized_only=True):
        if connection.alias not in simulated:
            watches[connection.alias] = ChangeWatch()
            connection.execute_wrappers.insert(0, watches[connection.alias])
    try:
        yield
    finally:
        for connection in list(connections.all(initialized_only=True)):
            watch = watches.get(connection.alias)
            if watch is not None and watch in connection.execute_wrappers:
                connection.execute_wrappers.remove(watch)
            if connection.alias not in simulated and connection.connection is not None:
                _close_if_changed(connection, lost, is_changed=watch is not None and watch.is_changed)


def _close_if_changed(connection: Any, lost: list[str], *, is_changed: bool) -> None:
    is_ours = connection.vendor == "postgresql"
    status = connection.connection.info.transaction_status if is_ours else None
    is_open = connection.in_atomic_block or not connection.autocommit or status in LEFT_OPEN
    if not (is_open or is_changed):
        return
    if is_open and has_written(connection, status):
        lost.append(connection.alias)
    # Not by another wrapper in its place: at the end of a test run Django closes the one with which it began.
    vars(connection).update(_NO_TRANSACTION, closed_in_transaction=False)
    connection.close()
