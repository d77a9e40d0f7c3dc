"""With TEST_SCHEMA the SQL that tests write themselves, with plain names, finds our tables too.

The package has to qualify its own statements, so the search_path must not help. What a test passes to execute() is
qualified here, and what comes from anywhere else is left alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psycopg
from django.db.backends.utils import CursorWrapper

TESTS = str(Path(__file__).parent)
EXECUTES = [(CursorWrapper, "execute"), (CursorWrapper, "executemany"), (psycopg.Connection, "execute"),
            (psycopg.Cursor, "execute"), (psycopg.Cursor, "copy"), (psycopg.AsyncConnection, "execute")]  # fmt: skip


def qualify_sql_of_tests() -> None:
    """Replaces the methods that send SQL, once in a process."""
    for owner, name in EXECUTES:
        method = getattr(owner, name)
        if not hasattr(method, "of_tests"):
            setattr(owner, name, _qualifying(method))


def _qualifying(method: Any) -> Any:
    def execute(self: Any, sql: Any, *arguments: Any, **options: Any) -> Any:
        from pgonly_django.tables import qualified

        if isinstance(sql, str) and _caller().startswith(TESTS):
            sql = qualified(sql)
        return method(self, sql, *arguments, **options)

    def _caller() -> str:
        """The file that called execute(), also through that of OwnConnection."""
        frame = sys._getframe(2)
        passed_on = frame.f_code.co_filename.endswith("pgonly_django/database/connect.py")
        return (frame.f_back if passed_on and frame.f_back else frame).f_code.co_filename

    execute.of_tests = True  # type: ignore[attr-defined]
    return execute
