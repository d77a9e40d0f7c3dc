"""What the cache asks PostgreSQL: one statement a call. Keys and seconds come ready-made from django_api.py."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import connections
from psycopg.errors import NumericValueOutOfRange
from psycopg.pq.abc import PGresult

from pgonly_django import events
from pgonly_django.cache import keys
from pgonly_django.cache.codec import INTEGER, Codec
from pgonly_django.cache.durations import LONGEST_SECONDS
from pgonly_django.cache.entry import (
    EXPIRE,
    INSERT,
    INSERT_MANY,
    INSERT_MANY_TYPES,
    LIVE,
    OVERHEAD_BYTES,
    OVERWRITE,
    REWRITE,
    ROW_TYPES,
    SIZE,
    VALUE,
    Row,
    after,
    size_of,
)
from pgonly_django.cache.eviction import eviction_for
from pgonly_django.cache.options import Options
from pgonly_django.cache.statement import Statement
from pgonly_django.database.binary import bytea_array, int2_array, int8_array, integer, text_array
from pgonly_django.database.connection import Params
from pgonly_django.database.operation import InThread, Operation
from pgonly_django.database.pool import pool_for
from pgonly_django.exceptions import CacheError, UnreadableEntryError, ValueTooLargeError

# Where MAX_BYTES or MAX_ENTRIES hold, a write also says how large the entry was before: octet_length() reads no value.
BEFORE = "WITH before AS MATERIALIZED (SELECT " + SIZE + " AS size FROM {table} WHERE key = $1) "
NEW_AND_BEFORE = " RETURNING xmax = 0, (SELECT size FROM before)"

BATCH = 1000  # entries a statement, so that none runs long
BATCH_BYTES = 8 * 1024 * 1024
Keys = set[bytes]
Stored = tuple[bytes | None, bytes | None]  # columns value and number
Batch = list[tuple[bytes, int | None, int, bytes | None]]  # of a set_many: key, number, codec, value
FIELD_LIMIT = 1_000_000_000  # PostgreSQL: a message, and so a row on its way, holds less than 1 GiB


class Store:
    """The entries of one namespace in one of the two tables."""

    def __init__(self, location: str, options: Options) -> None:
        self.namespace = keys.namespace(location)
        self.location = self.namespace[:-1]
        if options.database not in connections:
            known = ", ".join(connections)
            raise ImproperlyConfigured(
                f'OPTIONS["DATABASE"] is {options.database!r}, which is not in DATABASES: {known}.'
            )
        self.pool = pool_for(options.database, options.pool_size)
        self.durable = options.durable
        self._codec = Codec(options.serializer, options.compressor, options.compress_above)
        self._strict = options.on_error == "raise"
        self._timeout = options.timeout_seconds
        self.long_timeout = options.long_timeout_seconds
        self._max_bytes = options.max_bytes or FIELD_LIMIT * 2
        # Fits whatever its key: almost every value is asked no more than this.
        self._fits = min(FIELD_LIMIT, self._max_bytes) - size_of(keys.LIMIT, 0)
        self.eviction = eviction_for(self.pool, self.namespace, options)
        self.counters = self.eviction.counters

    def is_same(self, other: Store) -> bool:
        """True when both are the same entries."""
        mine, theirs = (self.namespace, self.durable, self.pool.alias), (other.namespace, other.durable)
        return mine == (*theirs, other.pool.alias)

    def key(self, made: str) -> bytes:
        return keys.stored(self.namespace + made)

    def call(self, statement: Statement, params: Params, timeout: float = 0) -> Operation[PGresult]:
        variant, usual = statement.variants[self.durable], self._timeout
        return self.pool.call(variant, params, timeout or usual, usual)

    # Served by the primary key, like every statement here that names its keys.
    GET = Statement(f"SELECT {VALUE} FROM {{table}} WHERE key = $1 AND {LIVE}", "text")

    def get(self, key: bytes, default: Any) -> Operation[Any]:
        result = yield from self.call(self.GET, (key,))
        hit = result.ntuples == 1
        if self.counters.read(hits=hit, misses=not hit):
            yield from self.eviction.flush()
        return self.value(result, 0) if hit else default

    def read(self, *, hits: int, misses: int) -> Operation[None]:
        """Count reads, and flush the counts once in a while."""
        if self.counters.read(hits=hits, misses=misses):
            yield from self.eviction.flush()

    def value(self, result: PGresult, row: int, column: int = 0) -> Any:
        """The Python value of three columns: number, codec, value. Raises UnreadableEntryError."""
        codec = integer(result.get_value(row, column + 1))
        if codec == INTEGER:
            return integer(result.get_value(row, column))
        data = result.get_value(row, column + 2)
        assert data is not None
        try:
            return self._codec.decode(codec, data)
        except Exception as error:
            raise UnreadableEntryError(error) from error

    HAS = Statement("SELECT FROM {table} WHERE key = $1 AND " + LIVE, "text")

    def has(self, key: bytes) -> Operation[bool]:
        result = yield from self.call(self.HAS, (key,))
        return result.ntuples == 1

    SET = Statement(INSERT + OVERWRITE, ROW_TYPES)
    SET_COUNTED = Statement(BEFORE + INSERT + OVERWRITE + NEW_AND_BEFORE, ROW_TYPES)

    def set(
        self, key: bytes, value: Any, seconds: float | None, tags: Sequence[bytes] = ()
    ) -> Operation[None]:
        if seconds is not None and seconds <= 0:
            yield from self.delete(key)
            return
        yield from self.write((yield from self.made(key, value, seconds, tags, overwrites=True)))

    def write(self, row: Row) -> Operation[None]:
        """Write what row() made, whatever there is."""
        counted = self.counters.bounded
        result = yield from self.call(self.SET_COUNTED if counted else self.SET, row)
        yield from self.wrote(row, result if counted else None)

    REPLACE = Statement("UPDATE {table} " + REWRITE + " WHERE key = $1 AND " + LIVE, ROW_TYPES)
    REPLACE_COUNTED = Statement(
        BEFORE + REPLACE.sql + " RETURNING false, (SELECT size FROM before)", ROW_TYPES
    )

    def replace(
        self, key: bytes, value: Any, seconds: float | None, tags: Sequence[bytes] = ()
    ) -> Operation[bool]:
        """Write only where there is a live entry; whether there was one."""
        if seconds is not None and seconds <= 0:
            return (yield from self.delete(key))
        row = yield from self.made(key, value, seconds, tags, overwrites=True)
        return (yield from self.write_if_live(row))

    def write_if_live(self, row: Row) -> Operation[bool]:
        """Write what row() made where there is a live entry; whether there was one."""
        counted = self.counters.bounded
        result = yield from self.call(self.REPLACE_COUNTED if counted else self.REPLACE, row)
        if result.command_tuples != 1:
            return False
        yield from self.wrote(row, result if counted else None)
        return True

    _ADD = INSERT + OVERWRITE + " WHERE entry.expires_at <= clock_timestamp()"
    ADD = Statement(_ADD, ROW_TYPES)
    ADD_COUNTED = Statement(BEFORE + _ADD + NEW_AND_BEFORE, ROW_TYPES)

    def add(
        self, key: bytes, value: Any, seconds: float | None, tags: Sequence[bytes] = ()
    ) -> Operation[bool]:
        if seconds is not None and seconds <= 0:
            return not (yield from self.has(key))
        return (yield from self.write_if_none((yield from self.made(key, value, seconds, tags))))

    def write_if_none(self, row: Row) -> Operation[bool]:
        """Write what row() made where there is no live entry; whether there was none."""
        counted = self.counters.bounded
        result = yield from self.call(self.ADD_COUNTED if counted else self.ADD, row)
        if result.command_tuples != 1:
            return False
        yield from self.wrote(row, result if counted else None)
        return True

    def made(
        self, key: bytes, value: Any, seconds: float | None, tags: Sequence[bytes] = (), stale: float = 0,
        *, overwrites: bool = False,
    ) -> Operation[Row]:  # fmt: skip
        """row(), in a thread where an event loop's may not: a queryset, say, asks the database when it is pickled.

        Where it `overwrites`, a value too large deletes the key, or readers would take the old value for this one.
        """
        try:
            try:
                return self.row(key, value, seconds, tags, stale)
            except SynchronousOnlyOperation:
                row: Row = yield InThread(lambda: self.row(key, value, seconds, tags, stale))
                return row
        except ValueTooLargeError:
            if overwrites:
                yield from self.delete(key)
            raise

    def row(
        self, key: bytes, value: Any, seconds: float | None, tags: Sequence[bytes] = (), stale: float = 0
    ) -> Row:
        """The parameters $1 to $7 of a write. Raises what the serializer raises, and ValueTooLargeError."""
        codec, number, data = self._codec.encode(value)
        if data is not None and len(data) > self._fits and (error := self._too_large(key, len(data))):
            raise error
        return Row(
            key, data, None if number is None else b"%d" % number, b"%d" % codec,
            seconds_param(seconds), b"%f" % min(stale, LONGEST_SECONDS), text_array(tags) if tags else None,
        )  # fmt: skip

    def _too_large(self, key: bytes, size: int) -> ValueTooLargeError | None:
        if size > FIELD_LIMIT:
            return ValueTooLargeError(self.name(key), size, FIELD_LIMIT, "one field of PostgreSQL")
        if (whole := size_of(len(key), size)) > self._max_bytes:
            return ValueTooLargeError(self.name(key), whole, self._max_bytes, "MAX_BYTES of its cache")
        return None

    def place(self, key: bytes) -> tuple[str, bool, bytes]:
        """Where a stored key is, among all caches."""
        return self.pool.alias, self.durable, key

    def name(self, key: bytes) -> str:
        """A stored key as Django made it."""
        return key.decode().partition(":")[2]

    def tag(self, name: str) -> bytes:
        """A tag as it stands in the table: of this namespace only."""
        return keys.stored(self.namespace + name)

    def value_of(self, row: Row) -> Any:
        """What a read would give after row() is written: a copy, as the serializer makes it."""
        if row.number is not None:
            return int(row.number)
        assert row.value is not None
        return self._codec.decode(int(row.codec), row.value)

    def wrote(self, row: Row, counted: PGresult | None) -> Operation[None]:
        """Count a write, whose result says NEW_AND_BEFORE; every so often it pays for a share of the cleaning."""
        size, new, more = row.size, False, 0
        if counted is not None:
            new, before = counted.get_value(0, 0) == b"\x01", counted.get_value(0, 1)
            more = size if new else size - integer(before) if before else 0
        if self.counters.wrote(entries=new, size=more, written=size):
            yield from self.eviction.clean()

    TOUCH = Statement(
        f"UPDATE {{table}} {EXPIRE} FROM {after('$2')} WHERE key = $1 AND {LIVE}", "text float8"
    )

    def touch(self, key: bytes, seconds: float | None) -> Operation[bool]:
        if seconds is not None and seconds <= 0:
            return (yield from self.delete(key))
        result = yield from self.call(self.TOUCH, (key, seconds_param(seconds)))
        return result.command_tuples == 1

    INCR = Statement(
        "UPDATE {table} SET number = number + $2 WHERE key = $1 AND number IS NOT NULL AND "
        + LIVE
        + " RETURNING number",
        "text int8",
    )

    def add_to(self, key: bytes, delta: int) -> Operation[int | None]:
        """The integer after adding `delta`; None where there is none, or the sum needs more than 64 bits."""
        try:
            result = yield from self.call(self.INCR, (key, b"%d" % delta))
        except CacheError as error:
            if isinstance(error.__cause__, NumericValueOutOfRange):
                return None
            raise
        return integer(result.get_value(0, 0)) if result.ntuples else None

    STORED = Statement(GET.sql, GET.types)

    def stored(self, key: bytes) -> Operation[tuple[Any, Stored] | None]:
        """The value, and what stands in the table for it: number and bytes. None where there is none."""
        result = yield from self.call(self.STORED, (key,))
        if not result.ntuples:
            return None
        number = result.get_value(0, 0)
        text = None if number is None else b"%d" % integer(number)
        return self.value(result, 0), (result.get_value(0, 2), text)

    SWAP = Statement(
        """UPDATE {table} SET value = $2, number = $3, codec = $4 WHERE key = $1
        AND value IS NOT DISTINCT FROM $5 AND number IS NOT DISTINCT FROM $6 AND """
        + LIVE,
        "text bytea int8 int2 bytea int8",
    )

    def swap(self, key: bytes, stored: Stored, new: Any) -> Operation[bool]:
        """Write `new` where the entry still is what stored() gave, keeping its expiry."""
        result = yield from self.call(self.SWAP, (*self.row(key, new, None)[:4], *stored))
        return result.command_tuples == 1

    DELETE = Statement(
        "DELETE FROM {table} WHERE key = $1 RETURNING " + LIVE + ", " + SIZE,
        "text",
    )

    def delete(self, key: bytes) -> Operation[bool]:
        result = yield from self.call(self.DELETE, (key,))
        if not result.ntuples:
            return False
        yield from self.removed(1, integer(result.get_value(0, 1)))
        return result.get_value(0, 0) == b"\x01"

    def removed(self, entries: int, size: int) -> Operation[None]:
        """Count what was deleted. When it is much, flush: other processes should know before they evict."""
        if self.counters.removed(entries, size):
            yield from self.eviction.flush()

    GET_MANY = Statement(f"SELECT key, {VALUE} FROM {{table}} WHERE key = ANY($1) AND {LIVE}", "text[]")

    def get_many(self, wanted: Sequence[bytes]) -> Operation[dict[bytes, Any]]:
        found: dict[bytes, Any] = {}
        for batch in batches(wanted):
            result = yield from self.call(self.GET_MANY, (text_array(batch),))
            for row in range(result.ntuples):
                self._collect(found, result, row)
        yield from self.read(hits=len(found), misses=len(wanted) - len(found))
        return found

    def _collect(self, found: dict[bytes, Any], result: PGresult, row: int) -> None:
        """One unreadable entry is a miss; the others are not lost for it."""
        try:
            found[result.get_value(row, 0) or b""] = self.value(result, row, 1)
        except UnreadableEntryError as error:
            if self._strict:
                raise
            events.emit("cache.failed", str(error), level=logging.WARNING)

    SET_MANY = Statement(INSERT_MANY + OVERWRITE, INSERT_MANY_TYPES)
    SET_MANY_COUNTED = Statement(
        BEFORE.replace("key = $1", "key = ANY($1)") + ", written AS (" + SET_MANY.sql
        + " RETURNING xmax = 0 AS new, " + SIZE + " AS size) "
        "SELECT count(*) FILTER (WHERE new), sum(size) - (SELECT coalesce(sum(size), 0) FROM before) FROM written",
        SET_MANY.types,
    )  # fmt: skip

    def set_many(
        self, entries: Mapping[bytes, Any], seconds: float | None, tags: Sequence[bytes], stored: Keys
    ) -> Operation[None]:
        """Write the entries, and put the keys of those that are written into `stored`.

        What is too large raises ValueTooLargeError once the others are written.
        """
        refused: dict[bytes, ValueTooLargeError] = {}
        try:
            yield from self._write_many(self._encoded_batches(entries, refused), seconds, tags, stored)
        except SynchronousOnlyOperation:  # see made()
            encoded = yield InThread(lambda: list(self._encoded_batches(entries, refused)))
            yield from self._write_many(encoded, seconds, tags, stored)
        for key in refused:
            yield from self.delete(key)
        if refused:
            raise next(iter(refused.values()))

    def _write_many(
        self, encoded: Iterable[Batch], seconds: float | None, tags: Sequence[bytes], stored: Keys
    ) -> Operation[None]:
        statement = self.SET_MANY_COUNTED if self.counters.bounded else self.SET_MANY
        for batch in encoded:
            names, numbers, codecs, data = zip(*batch, strict=True)
            arrays = text_array(names), bytea_array(data), int8_array(numbers), int2_array(codecs)
            params = (*arrays, seconds_param(seconds), b"0", text_array(tags) if tags else None)
            result = yield from self.call(statement, params)
            stored.update(names)
            new, more = (integer(result.get_value(0, each)) for each in (0, 1)) if result.ntuples else (0, 0)
            written = len(arrays[0]) + len(arrays[1]) + OVERHEAD_BYTES * len(batch)
            if self.counters.wrote(entries=new, size=more, written=written, writes=len(batch)):
                yield from self.eviction.clean()

    def _encoded_batches(
        self, entries: Mapping[bytes, Any], refused: dict[bytes, ValueTooLargeError]
    ) -> Iterator[Batch]:
        """In key order, each small enough for one statement."""
        batch: Batch = []
        size, encode = 0, self._codec.encode
        for key in sorted(entries):
            codec, number, data = encode(entries[key])
            length = len(key) + len(data or b"")
            if length > self._fits and (error := self._too_large(key, len(data or b""))):
                refused[key] = error
                continue
            if batch and (len(batch) == BATCH or size + length > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append((key, number, codec, data))
            size += length
        if batch:
            yield batch


def seconds_param(seconds: float | None) -> bytes | None:
    """None (for ever) also for more than the columns hold."""
    return None if seconds is None or seconds > LONGEST_SECONDS else b"%.6f" % seconds


def batches(items: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))
