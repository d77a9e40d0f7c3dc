"""Makes JSON text for JSONB columns, and refuses what such a column cannot hold before any statement is sent."""

from __future__ import annotations

import json
import re
from typing import Any

from pgonly_django.compat import normalize_json
from pgonly_django.exceptions import NotStorableError

_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
# An escape, not the text of one: there is an odd number of backslashes before the u.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
# A job that one Python enqueues must be readable by every other: 3.11 reads 993 levels of JSON, less what its stack
# holds already, 3.12 reads 1,497 and 3.13 9,998.
NESTING_LIMIT = 500
# JSONB holds 256 MB and refuses more; a message of 1 GB (up to four bytes a character) breaks the connection.
LENGTH_LIMIT = 200_000_000
CONTAINERS = (dict, list, tuple)
TOO_DEEP = f"it is nested too deeply, more than {NESTING_LIMIT} levels"


def to_json(value: Any, what: str) -> str:
    """`value` as JSON text that a JSONB column takes and every supported Python reads. Raises NotStorableError, which
    names `what` and the reason. Tuples become lists and keys become strings, as everywhere in JSON; UTF-8 bytes become
    text, as in Django's tasks."""
    try:
        try:
            text = _encode(value)
        except (TypeError, ValueError, RecursionError):
            value = normalize_json(value)
            text = _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        reason = TOO_DEEP if isinstance(error, RecursionError) else str(error)
        raise NotStorableError(what, reason) from error
    if len(text) > 2 * NESTING_LIMIT:
        if _is_too_deep(value, text):
            raise NotStorableError(what, TOO_DEEP)
        if len(text) > LENGTH_LIMIT:
            raise NotStorableError(what, f"it has {len(text):,} characters, more than {LENGTH_LIMIT:,}")
    if "\\u0000" in text and _NUL.search(text):
        raise NotStorableError(what, "it holds a NUL character, which PostgreSQL text cannot")
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise NotStorableError(what, "it holds half of a surrogate pair, which is not text") from error
    return text


def _is_too_deep(value: Any, text: str) -> bool:
    """Whether it has more levels than NESTING_LIMIT. To count brackets takes a third of the time of a walk."""
    if text.count("[") + text.count("{") <= NESTING_LIMIT:
        return False
    level: list[Any] = [[value]]
    for _ in range(NESTING_LIMIT + 1):
        members = (outer.values() if isinstance(outer, dict) else outer for outer in level)
        level = [inner for each in members for inner in each if isinstance(inner, CONTAINERS)]
        if not level:
            return False
    return True
