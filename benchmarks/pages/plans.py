"""What the server says of a page's statements: their number, and EXPLAIN (ANALYZE, BUFFERS) of each while it ran."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The server tells the client each plan as a notice. Also those of functions and of a transaction's own statements.
ON = """
LOAD 'auto_explain'; SET client_min_messages = notice; SET auto_explain.log_level = notice;
SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on; SET auto_explain.log_buffers = on;
SET auto_explain.log_timing = on
"""
OFF = "SET auto_explain.log_min_duration = -1; RESET client_min_messages"
NAME_LENGTH = 100


def plans(visit: Callable[[], Any]) -> list[str]:
    """The plans of all statements that `visit` sends over Django's connection, in their order."""
    from django.db import connection

    found: list[str] = []
    connection.ensure_connection()
    session = connection.connection

    def keep(notice: Any) -> None:
        if "plan:" in (text := notice.message_primary or ""):
            found.append(text)

    session.execute(ON)
    session.add_notice_handler(keep)
    try:
        visit()
    finally:
        session.remove_notice_handler(keep)
        session.execute(OFF)
    return found


def write(folder: Path, path: str, found: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9]+", "-", path).strip("-")[:NAME_LENGTH]
    (folder / f"{name}.txt").write_text(f"{path}\n\n" + "\n\n".join(found) + "\n")
