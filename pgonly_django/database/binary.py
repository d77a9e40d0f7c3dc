"""What a connection prepares, and PostgreSQL's binary form of parameters and results."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

# PostgreSQL's number for each type, and whether we send it in binary (1) or as text (0).
_TYPES = {
    "text": (25, 1),
    "bytea": (17, 1),
    "int2": (21, 0),
    "int4": (23, 0),
    "int8": (20, 0),
    "float8": (701, 0),
    "text[]": (1009, 1),
    "bytea[]": (1001, 1),
    "int8[]": (1016, 1),
    "int2[]": (1005, 1),
}
_TEXT, _BYTEA, _INT8, _INT2 = 25, 17, 20, 21


@dataclass(frozen=True, slots=True)
class Prepared:
    """One text that a connection prepares under `name`, the same name everywhere for the same text."""

    name: bytes
    sql: bytes
    types: tuple[int, ...]
    formats: tuple[int, ...]
    may_take_long: bool


def prepared(sql: str, types: str, *, may_take_long: bool = False) -> Prepared:
    """`sql` with `$1`, `$2`, ... and their types in one string."""
    known = [_TYPES[name] for name in types.split()]
    oids, formats = tuple(oid for oid, _ in known), tuple(form for _, form in known)
    digest = hashlib.sha256(f"{sql}{oids}".encode()).hexdigest()[:24]
    return Prepared(f"pgonly_{digest}".encode(), sql.encode(), oids, formats, may_take_long)


_NULL = b"\xff\xff\xff\xff"
_length = struct.Struct("!i").pack
_int8 = struct.Struct("!iq").pack
_int2 = struct.Struct("!ih").pack


def text_array(items: Sequence[bytes]) -> bytes:
    return _array(_TEXT, len(items), [part for item in items for part in (_length(len(item)), item)])


def bytea_array(items: Sequence[bytes | None]) -> bytes:
    pairs = [(_NULL, b"") if item is None else (_length(len(item)), item) for item in items]
    return _array(_BYTEA, len(items), [part for pair in pairs for part in pair])


def int8_array(items: Sequence[int | None]) -> bytes:
    return _array(_INT8, len(items), [_NULL if item is None else _int8(8, item) for item in items])


def int2_array(items: Sequence[int]) -> bytes:
    return _array(_INT2, len(items), [_int2(2, item) for item in items])


def _array(oid: int, count: int, parts: list[bytes]) -> bytes:
    """PostgreSQL's binary form: dimensions, has-nulls, type, length, first index; then lengths and items."""
    return b"".join((struct.pack("!iiIii", 1, 1, oid, count, 1), *parts))


def integer(raw: bytes | None) -> int:
    """An integer column of any width, as it came in binary."""
    assert raw is not None
    return int.from_bytes(raw, "big", signed=True)
