"""A statement of the sessions, and how its parameters travel over libpq."""

from __future__ import annotations

import itertools
import re
from typing import Any

import psycopg

Params = dict[str, Any]

_numbers = itertools.count(1)
_special = re.compile(r'(["\\])')


class Statement:
    """`sql` with psycopg's `%(name)s`; on the server it may be prepared as `name`, with `$1`, `$2`, ..."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.name = f"pgonly_session_{next(_numbers)}".encode()
        self._order = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", sql)))
        for place, name in enumerate(self._order, start=1):
            sql = sql.replace(f"%({name})s", f"${place}")
        self.positional = sql.encode()

    def values(self, params: Params) -> list[bytes | None]:
        """The parameters in the order of `positional`, in PostgreSQL's text form."""
        return [_text(params[name]) for name in self._order]


def _text(value: str | bytes | float | bool | list[str] | None) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return b"\\x" + value.hex().encode()
    text = (_array(value) if isinstance(value, list) else str(value)).encode()
    if b"\0" in text:  # libpq would end the text there
        raise psycopg.DataError("PostgreSQL text cannot contain NUL (0x00) bytes")
    return text


def _array(items: list[str]) -> str:
    quoted = (_special.sub(r"\\\1", item) for item in items)
    return "{" + ",".join(f'"{item}"' for item in quoted) + "}"
