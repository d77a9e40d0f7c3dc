"""Reads and writes many entries in one statement, and walks over keys."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation

from pgonly_django import events
from pgonly_django.cache import call_log, globs
from pgonly_django.cache.entry import (
    INSERT_MANY,
    LIVE,
    OVERHEAD_BYTES,
    OVERWRITE,
    ROW,
    SIZE,
    VALUE,
    for_both_tables,
)
from pgonly_django.cache.store import BEFORE, Store, seconds_param
from pgonly_django.database.operation import InThread, Operation
from pgonly_django.database.statement import bytea_array, int2_array, int8_array, integer, text_array
from pgonly_django.exceptions import UnreadableEntryError, ValueTooLargeError

BATCH = 1000  # entries a statement, so that none takes long
BATCH_BYTES = 8 * 1024 * 1024
ITERSIZE = 1000
Encoded = list[tuple[bytes, int | None, int, bytes | None]]  # key, number, codec, value


def batches(items: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


# Served by the primary key, like every statement here.
GET_MANY = for_both_tables(f"SELECT key, {VALUE} FROM {{table}} WHERE key = ANY(%(keys)s::text[]) AND {LIVE}")


def get_many(store: Store, wanted: Sequence[bytes], *, strict: bool) -> Operation[dict[bytes, Any]]:
    """Returns the values by their keys. An entry that cannot be read is a miss; with `strict` it raises."""
    found: dict[bytes, Any] = {}
    for batch in batches(wanted):
        result = yield from store.send(GET_MANY, [text_array(batch)])
        for row in range(result.ntuples):
            try:
                found[result.get_value(row, 0) or b""] = store.value(result, row, 1)
            except UnreadableEntryError as error:
                if strict:
                    raise
                events.emit("cache.failed", str(error), level=logging.WARNING)
    yield from store.count(wanted, found)
    return found


SET_MANY = for_both_tables(INSERT_MANY + OVERWRITE, ROW, may_be_large=True)
SET_MANY_COUNTED = for_both_tables(
    BEFORE.replace("%(key)s::text", "ANY(%(key)s::text[])") + ", written AS (" + INSERT_MANY + OVERWRITE
    + " RETURNING xmax = 0 AS new, " + SIZE + " AS size) "
    "SELECT count(*) FILTER (WHERE new), sum(size) - (SELECT coalesce(sum(size), 0) FROM before) FROM written",
    ROW, may_be_large=True,
)  # fmt: skip


def set_many(
    store: Store, entries: Mapping[bytes, Any], seconds: float | None, tags: Sequence[bytes], stored: set[bytes]
) -> Operation[None]:  # fmt: skip
    """Writes the entries, and puts the keys of the entries that are written into `stored`. An entry that is too large
    raises ValueTooLargeError after the others are written.
    """
    refused: dict[bytes, ValueTooLargeError] = {}
    try:
        yield from _write_many(store, _encoded(store, entries, refused), seconds, tags, stored)
    except SynchronousOnlyOperation:  # see Store.row_in_thread()
        encoded = yield InThread(lambda: list(_encoded(store, entries, refused)))
        yield from _write_many(store, encoded, seconds, tags, stored)
    for key in refused:
        yield from store.delete(key)
    if refused:
        raise next(iter(refused.values()))


def _write_many(
    store: Store, encoded: Iterable[Encoded], seconds: float | None, tags: Sequence[bytes], stored: set[bytes]
) -> Operation[None]:
    statements = SET_MANY_COUNTED if store.counters.bounded else SET_MANY
    for batch in encoded:
        names, numbers, codecs, data = zip(*batch, strict=True)
        arrays = text_array(names), bytea_array(data), int8_array(numbers), int2_array(codecs)
        values = [*arrays, seconds_param(seconds), b"0", text_array(tags) if tags else None]
        result = yield from store.send(statements, values)
        stored.update(names)
        call_log.say("set", *names)
        new, more = (integer(result.get_value(0, each)) for each in (0, 1)) if result.ntuples else (0, 0)
        written = len(arrays[0]) + len(arrays[1]) + OVERHEAD_BYTES * len(batch)
        if store.counters.wrote(entries=new, size=more, written=written, writes=len(batch)):
            yield from store.eviction.clean()


def _encoded(
    store: Store, entries: Mapping[bytes, Any], refused: dict[bytes, ValueTooLargeError]
) -> Iterator[Encoded]:
    """Yields batches of entries in the order of their keys, each small enough for one statement."""
    batch: Encoded = []
    size, encode = 0, store.codec.encode
    for key in sorted(entries):
        codec, number, data = encode(entries[key])
        length = len(key) + len(data or b"")
        if length > store.fits and (error := store.too_large(key, len(data or b""))):
            refused[key] = error
            continue
        if batch and (len(batch) == BATCH or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((key, number, codec, data))
        size += length
    if batch:
        yield batch


SCAN = for_both_tables(
    f"""SELECT key FROM {{table}} WHERE key > %(after)s::text AND key >= %(start)s::text AND key < %(end)s::text
    AND key ~ %(regex)s::text AND {LIVE} ORDER BY key LIMIT %(limit)s::int8""",
    may_take_long=True,
)


def scan(store: Store, pattern: str, after: bytes, itersize: int) -> Operation[list[bytes]]:
    """Returns the next live keys after `after`, in order, whose made key matches the glob `pattern`."""
    start, end, regex = globs.matching(store.namespace, pattern)
    result = yield from store.call(
        SCAN, store.long_timeout, after=after, start=start, end=end, regex=regex, limit=itersize
    )
    return [key for row in range(result.ntuples) if (key := result.get_value(row, 0))]
