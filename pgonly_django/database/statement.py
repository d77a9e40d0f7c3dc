"""A statement: its text, its name on a server, and the form in which its parameters travel.

The type of a parameter is the cast after it: `%(key)s::text`, `%(ids)s::uuid[]`. Text, bytea and all arrays travel in
PostgreSQL's binary form, the rest as text. Without a cast PostgreSQL infers the type from the place.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

Params = dict[str, Any]
# Parameters as they travel, in the order of $1, $2, ... A list, since psycopg 3.2 takes nothing else.
Values = list[bytes | None]

_mark = re.compile(r"%%|%\((\w+)\)s(?:::(\w+(?:\[\])?))?")


class Statement:
    """`sql` marks its parameters as psycopg does. The server knows them as $1, $2, ... in the order of `names`, or of
    their first appearance.

    The same text has the same name everywhere, so what a server has prepared under `name` is this statement.
    """

    def __init__(
        self, sql: str, names: str = "", *, may_take_long: bool = False, may_be_large: bool = False
    ) -> None:
        self.sql, self.may_take_long = sql, may_take_long
        self.may_be_large = may_be_large  # its parameters: see KEEP_MEMORY in connection.py
        self.only_reads = sql.lstrip().startswith("SELECT")  # may be sent again where its answer was lost
        self.names = names.split()
        casts: dict[str, str] = {}

        def numbered(mark: re.Match[str]) -> str:
            name, cast = mark.groups()
            if name is None:
                return "%"
            if name not in self.names:
                self.names.append(name)
            if cast is None:
                return f"${self.names.index(name) + 1}"
            casts.setdefault(name, cast)
            return f"${self.names.index(name) + 1}::{cast}"

        self.positional = _mark.sub(numbered, sql).encode()
        if unknown := {cast for cast in casts.values() if cast.endswith("[]")} - _TYPES.keys():
            raise TypeError(f"A list cannot be encoded as {', '.join(unknown)}. Known: {', '.join(_TYPES)}.")
        types = [_TYPES.get(casts.get(name, ""), _INFERRED) for name in self.names]
        self.types, self.formats = [oid for oid, _, _ in types], [form for _, form, _ in types]
        self._encoders = [(name, encode) for name, (_, _, encode) in zip(self.names, types, strict=True)]
        digest = hashlib.sha256(self.positional + repr(self.types).encode()).hexdigest()
        self.name = f"pgonly_{digest[:24]}".encode()

    def values(self, params: Params) -> Values:
        """Returns the parameters as they travel. Raises psycopg.DataError for text with NUL."""
        return [None if (value := params[name]) is None else encode(value) for name, encode in self._encoders]


def integer(raw: bytes | None) -> int:
    """Returns an integer column of any width, as it comes in binary."""
    assert raw is not None
    return int.from_bytes(raw, "big", signed=True)


def printable(text: str) -> str:
    """Returns `text` with characters that PostgreSQL cannot hold made visible: for reasons, tracebacks, log lines."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def _text(value: Any) -> bytes:
    """Returns text. Bytes are taken for UTF-8."""
    if value.__class__ is bytes:
        return value
    text = value.encode() if isinstance(value, str) else str(value).encode()
    if b"\0" in text:  # the server would refuse it too, and break the transaction
        raise psycopg.DataError("PostgreSQL text cannot contain NUL (0x00) bytes")
    return text


def _integer(value: Any) -> bytes:
    # "%d" would cut a fraction off, and fail for anything that is not a number. PostgreSQL refuses both.
    return b"%d" % value if isinstance(value, int) else _text(value)


def _float(value: float) -> bytes:
    return str(value).encode()


def _inferred(value: Any) -> bytes:
    if value.__class__ is str and b"\0" not in (text := value.encode()):
        return text  # most are: two calls less for each
    if isinstance(value, bytes):
        return b"\\x" + value.hex().encode()
    return _text(f"{value.total_seconds():.6f} seconds" if isinstance(value, timedelta) else value)


# An array in binary: dimensions, has-nulls, type, length, first index; then each item after its length.
_header = struct.Struct("!iiIii").pack
_length = struct.Struct("!i").pack
_NULL = _length(-1)
_TEXT, _BYTEA = 25, 17


def text_array(items: Sequence[str | bytes | None]) -> bytes:
    return _joined(_TEXT, items, _text)


def bytea_array(items: Sequence[bytes | None]) -> bytes:
    return _joined(_BYTEA, items, bytes)


def _joined(oid: int, items: Sequence[Any], encode: Callable[[Any], bytes]) -> bytes:
    parts = [_header(1, 1, oid, len(items), 1)]
    for item in items:
        if item is None:
            parts.append(_NULL)
        else:
            raw = item if item.__class__ is bytes else encode(item)
            parts += (_length(len(raw)), raw)
    return b"".join(parts)


def _array(
    oid: int, form: str, convert: Callable[[Any], Any] | None = None
) -> Callable[[Sequence[Any]], bytes]:
    """Encodes items of one size, which `struct` packs by `form`."""
    pack, size = struct.Struct(f"!i{form}").pack, struct.calcsize(f"!{form}")

    def encode(items: Sequence[Any]) -> bytes:
        values = items if convert is None else [None if item is None else convert(item) for item in items]
        packed = [_NULL if value is None else pack(size, value) for value in values]
        return _header(1, 1, oid, len(items), 1) + b"".join(packed)

    return encode


def _uuid(value: UUID | str) -> bytes:
    return (value if isinstance(value, UUID) else UUID(value)).bytes


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


int2_array = _array(21, "h")
int8_array = _array(20, "q")
_int4 = 23, 0, _integer
_int4_array = 1007, 1, _array(23, "i")

# By the name in a cast: PostgreSQL's number for the type, whether it travels in binary (1), and what encodes it.
_TYPES: dict[str, tuple[int, int, Callable[[Any], bytes]]] = {
    "text": (_TEXT, 1, _text),
    "bytea": (_BYTEA, 1, bytes),
    "int2": (21, 0, _integer),
    "int": _int4,
    "int4": _int4,
    "int8": (20, 0, _integer),
    "float8": (701, 0, _float),
    "text[]": (1009, 1, text_array),
    "bytea[]": (1001, 1, bytea_array),
    "int2[]": (1005, 1, int2_array),
    "int[]": _int4_array,
    "int4[]": _int4_array,
    "int8[]": (1016, 1, int8_array),
    "float8[]": (1022, 1, _array(701, "d")),
    "bool[]": (1000, 1, _array(16, "?")),
    "uuid[]": (2951, 1, _array(2950, "16s", _uuid)),
    "timestamptz[]": (1185, 1, _array(1184, "q", _microseconds)),
}
_INFERRED = 0, 0, _inferred
