"""Settings that a job changes on a test's connection: SET and set_config().

A worker's SET LOCAL ends with the job's transaction, and a worker closes a connection on which a job has left a SET.
In a TestCase both would last until the test ends, so they are put back when a worker's would be over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

# What is not named here is no setting that can be put back: SET TRANSACTION, SET CONSTRAINTS, SET SESSION ....
_SET = re.compile(
    r"(?:^|;|\*/)\s*(?:set\s+(?P<scope>local\s+|session\s+)?|(?P<reset>reset\s+))"
    r"(?!transaction|constraints|characteristics|authorization|all\b)(?P<name>time\s+zone|[\w.]+|\"[^\"]+\")",
    re.IGNORECASE,
)
_SET_CONFIG = re.compile(
    r"set_config\s*\(\s*'(?P<name>[^']+)'.*?,\s*(?P<is_local>true|false|'t\w*'|'f\w*')(?:::\w+)?\s*\)",
    re.IGNORECASE | re.DOTALL,
)
_NAMES = {"schema": "search_path", "names": "client_encoding"}


class JobSettings:
    """Those that the job has changed, with their values from before."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._local: dict[str, str | None] = {}  # by SET LOCAL, in the transaction that is open
        self._session: dict[str, str | None] = {}

    def note(self, sql: Any, params: Any) -> None:
        """Called before each statement of the job."""
        text = sql if isinstance(sql, str) else str(sql)
        lowered = text.lower()
        if "set" not in lowered:
            return
        if "set_config" in lowered and params:
            text = self._connection.ops.compose_sql(text, params)
        for name, is_local in _changed(text):
            self._note(name, is_local=is_local)

    def _note(self, name: str, *, is_local: bool) -> None:
        value = self._value(name)
        if value is None and "." not in name:
            return  # no setting: the text was read wrongly, or PostgreSQL will say so
        if is_local:
            self._local.setdefault(name, value)
        else:  # what SET LOCAL has set before is replaced, also after the transaction
            self._session.setdefault(name, self._local.pop(name, value))

    def end_transaction(self) -> None:
        """It was committed. A rollback puts settings back by itself: see forget_transaction()."""
        self._put_back(self._local)

    def forget_transaction(self) -> None:
        self._local.clear()

    def end_run(self) -> None:
        self._put_back(self._session)

    def _value(self, name: str) -> str | None:
        with closing(self._connection.connection.cursor()) as cursor:
            cursor.execute("SELECT current_setting(%s, true)", [name])
            value: str | None = cursor.fetchone()[0]
            return value

    def _put_back(self, settings: dict[str, str | None]) -> None:
        """A setting that did not exist is empty from now on, as it is in PostgreSQL after a SET LOCAL."""
        before = sorted(settings.items(), key=lambda each: each[0] != "role")  # which may set the others
        settings.clear()
        with closing(self._connection.connection.cursor()) as cursor:
            for name, value in before:
                cursor.execute("SELECT set_config(%s, %s, false)", [name, value or ""])


def _changed(text: str) -> Iterator[tuple[str, bool]]:
    """The name of each setting that the statements change, and whether only for the transaction."""
    for found in _SET.finditer(text):
        name = found["name"].strip('"').lower()
        is_local = not found["reset"] and (found["scope"] or "").strip().lower() == "local"
        name = "timezone" if name.startswith("time") and " " in name else _NAMES.get(name, name)
        if not name.startswith("transaction_"):
            yield name, is_local
    for found in _SET_CONFIG.finditer(text):
        yield found["name"].lower(), found["is_local"].strip("'").lower().startswith("t")
