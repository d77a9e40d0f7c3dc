"""JSON on its way into JSONB: what the column cannot hold is refused here, by name, before any statement."""

from __future__ import annotations

import json
import re
from typing import Any

from pgonly_django.compat import normalize_json
from pgonly_django.exceptions import NotStorableError

_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
# An escape of its own, not the text of one: an odd number of backslashes before the u.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def to_json(value: Any, what: str) -> str:
    """`value` as JSON text that a JSONB column takes. Raises NotStorableError naming `what` and the reason.

    Tuples become lists and keys strings, as everywhere in JSON; UTF-8 bytes become text, as in Django's tasks.
    """
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError):
        text = _encode_normalized(value, what)
    if "\\u0000" in text and _NUL.search(text):
        raise NotStorableError(what, "it holds a NUL character, which PostgreSQL text cannot")
    if not text.isascii():
        _refuse_lone_surrogates(text, what)
    return text


def _encode_normalized(value: Any, what: str) -> str:
    try:
        return _encode(normalize_json(value))
    except (TypeError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise NotStorableError(what, reason) from error


def _refuse_lone_surrogates(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NotStorableError(what, "it holds half of a surrogate pair, which is not text") from error


def printable(text: str) -> str:
    """`text` with what JSONB cannot hold made visible: for tracebacks, messages and log lines."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
