"""Finds out whether a job has changed its connection for the jobs after it: settings, role, session locks, temporary
tables. It reads the statements that Django sends, which costs no round trip and less than a microsecond each."""

import re
from typing import Any

# What the ORM sends, and what Django sends for atomic().
PLAIN = ("select", "insert", "update", "delete", "with", "savepoint", "release", "rollback")
_STATEMENT = re.compile(
    r"(?:^|;|\*/)\s*(?:set\s+(?!local\b|transaction\b|constraints\b)|reset\b|discard\b|listen\b|load\b|do\b|call\b"
    r"|prepare\b(?!\s+transaction)|deallocate\b|declare\b.*\bwith\s+hold\b|create\s+(?:local\s+|global\s+)?temp)",
    re.DOTALL,
)
_LOCAL_SETTING = re.compile(r"set_config\s*\([^()]*,\s*true\s*\)")


class ChangeWatch:
    """An execute wrapper. `is_changed` is true once the effect of a statement outlasts its transaction."""

    __slots__ = ("is_changed",)

    def __init__(self) -> None:
        self.is_changed = False

    def __call__(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        if not self.is_changed:
            if isinstance(sql, bytes):
                text = sql.decode(errors="replace")
            elif hasattr(sql, "as_string"):  # psycopg's composed SQL
                text = sql.as_string(context["connection"].connection)
            else:
                text = str(sql)
            self.is_changed = outlasts_its_transaction(text)
        return execute(sql, params, many, context)


def outlasts_its_transaction(sql: str) -> bool:
    text = sql.lower()
    if "advisory_lock" in text or " into temp" in text:
        return True
    if "set_config" in text and "set_config" in _LOCAL_SETTING.sub("", text):
        return True
    if text.startswith(PLAIN) and ";" not in text:
        return False
    return _STATEMENT.search(text) is not None
