"""The entries of one cache: reads and writes of one entry, each one statement.

Many at once are in bulk.py, deletions in deletion.py, sums and times to live in updates.py.
"""

from collections.abc import Collection, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import connections
from psycopg.pq.abc import PGresult

from pgonly_django.cache import call_log
from pgonly_django.cache.durations import LONGEST_SECONDS
from pgonly_django.cache.entry import (
    INSERT,
    INTEGER,
    KEY_LIMIT,
    LIVE,
    OVERWRITE,
    REWRITE,
    ROW,
    SIZE,
    VALUE,
    Codec,
    EntryRow,
    Statements,
    for_both_tables,
    namespace,
    size_of,
    stored_key,
)
from pgonly_django.cache.eviction import eviction_for
from pgonly_django.cache.options import CACHE, Options
from pgonly_django.database.operation import InThread, Operation
from pgonly_django.database.pool import pool_for
from pgonly_django.database.statement import Statement, Values, integer, text_array
from pgonly_django.error_texts import is_raised_again
from pgonly_django.exceptions import UnreadableEntryError, ValueTooLargeError

# Where MAX_BYTES or MAX_ENTRIES hold, a write also says how large the entry was before: octet_length() reads no value.
BEFORE = "WITH before AS MATERIALIZED (SELECT " + SIZE + " AS size FROM {table} WHERE key = %(key)s::text) "
NEW_AND_BEFORE = " RETURNING xmax = 0, (SELECT size FROM before)"
FIELD_LIMIT = 1_000_000_000  # PostgreSQL: a message, and so a row on its way, holds less than 1 GiB


class Store:
    """The entries of one namespace in one of the two tables."""

    def __init__(self, location: str, options: Options) -> None:
        self.namespace = namespace(location)
        self.location = self.namespace[:-1]
        if options.database not in connections:
            name, known = options.database, ", ".join(connections)
            raise ImproperlyConfigured(
                f'OPTIONS["DATABASE"] is {name!r}, which is not in DATABASES: {known}.'
            )
        self.pool = pool_for(options.database, options.pool_size, CACHE)
        self.durable = options.durable
        self.codec = Codec(options.serializer, options.compressor, options.compress_above)
        self._timeout, self.long_timeout = options.timeout_seconds, options.long_timeout_seconds
        self.max_entries, self.max_bytes = options.max_entries, options.max_bytes
        self._max_bytes = options.max_bytes or FIELD_LIMIT * 2
        # The bytes that fit whatever the key is: for almost every value this is the only question.
        self.fits = min(FIELD_LIMIT, self._max_bytes) - size_of(KEY_LIMIT, 0)
        self.eviction = eviction_for(self.pool, self.namespace, options)
        self.counters = self.eviction.counters

    def key(self, made: str) -> bytes:
        """Returns a key that Django made as it is in the table."""
        return stored_key(self.namespace + made)

    tag = key  # a tag too belongs to one namespace

    def name(self, key: bytes) -> str:
        """Returns a stored key as Django made it."""
        return key.decode().partition(":")[2]

    def place(self, key: bytes) -> tuple[str, bool, bytes]:
        """Returns what distinguishes a stored key from those of all other caches."""
        return self.pool.alias, self.durable, key

    def call(
        self, statement: Statement | Statements, timeout: float = 0, **params: Any
    ) -> Operation[PGresult]:
        """Returns the result of the statement, the one of the two that is for this table. It may take `timeout`
        seconds, by default the usual time."""
        one = statement if isinstance(statement, Statement) else statement[self.durable]
        return self.pool.call(one, one.values(params), timeout or self._timeout, self._timeout)

    def send(self, statements: Statements, values: Values) -> Operation[PGresult]:
        """Does call() with parameters that are encoded already, in the order of the statement's names. It serves the
        usual calls, where naming and encoding them would take 0.4 of 7 us.
        """
        return self.pool.call(statements[self.durable], values, self._timeout, self._timeout)

    # Served by the primary key, like every statement here.
    GET = for_both_tables(f"SELECT {VALUE} FROM {{table}} WHERE key = %(key)s::text AND {LIVE}")

    def get(self, key: bytes, default: Any) -> Operation[Any]:
        result = yield from self.send(self.GET, [key])
        return (yield from self.value_or(default, key, result))

    def value_or(self, default: Any, key: bytes, result: PGresult) -> Operation[Any]:
        """Returns the value that a statement has read, which is a hit, or the default."""
        hit = result.ntuples == 1
        yield from self.count([key], [key] if hit else [])
        return self.value(result, 0) if hit else default

    def count(self, keys: Sequence[bytes], found: Collection[bytes], detail: str = "") -> Operation[None]:
        """Counts what was read as hits and misses, and logs it. Flushes the counts once in a while."""
        if self.counters.read(hits=len(found), misses=len(keys) - len(found)):
            yield from self.eviction.flush()
        if call_log.is_on(call_log.DEBUG):
            call_log.say("hit", *found, detail=detail)
            call_log.say("miss", *(key for key in keys if key not in found), detail=detail)

    def value(self, result: PGresult, row: int, column: int = 0) -> Any:
        """Returns the Python value of three columns: number, codec, value. Raises UnreadableEntryError."""
        codec = integer(result.get_value(row, column + 1))
        if codec == INTEGER:
            return integer(result.get_value(row, column))
        data = result.get_value(row, column + 2)
        assert data is not None
        try:
            return self.codec.decode(codec, data)
        except Exception as error:
            if not is_raised_again(error, self.codec.decode, codec, data):
                raise
            raise UnreadableEntryError(error) from error

    HAS = for_both_tables("SELECT FROM {table} WHERE key = %(key)s::text AND " + LIVE)

    def has(self, key: bytes) -> Operation[bool]:
        result = yield from self.send(self.HAS, [key])
        return result.ntuples == 1

    SET = for_both_tables(INSERT + OVERWRITE, ROW)
    SET_COUNTED = for_both_tables(BEFORE + INSERT + OVERWRITE + NEW_AND_BEFORE, ROW)
    _ADD = INSERT + OVERWRITE + " WHERE entry.expires_at <= clock_timestamp()"
    ADD = for_both_tables(_ADD, ROW)
    ADD_COUNTED = for_both_tables(BEFORE + _ADD + NEW_AND_BEFORE, ROW)
    _REPLACE = "UPDATE {table} " + REWRITE + " WHERE key = %(key)s::text AND " + LIVE
    REPLACE = for_both_tables(_REPLACE, ROW)
    REPLACE_COUNTED = for_both_tables(BEFORE + _REPLACE + " RETURNING false, (SELECT size FROM before)", ROW)

    def set(
        self, key: bytes, value: Any, seconds: float | None, tags: Sequence[bytes] = (),
        nx: bool = False, xx: bool = False,
    ) -> Operation[bool]:  # fmt: skip
        """See write(). A timeout that has passed deletes the key, except with `nx`. So does a value that is too large,
        or readers would take the old value for the new one.
        """
        if seconds is not None and seconds <= 0:
            return not (yield from self.has(key)) if nx else (yield from self.delete(key))
        try:
            try:
                row = self.row(key, value, seconds, tags)
            except SynchronousOnlyOperation:
                row = yield self.row_in_thread(key, value, seconds, tags)
        except ValueTooLargeError:
            if not nx:
                yield from self.delete(key)
            raise
        return (yield from self.write(row, nx, xx))

    def write(self, row: EntryRow, nx: bool = False, xx: bool = False) -> Operation[bool]:
        """Writes what row() made: with `nx` only if there is no live entry, with `xx` only if there is one. Returns
        whether it was written. Counts the write, and cleans a little once in a while.
        """
        if nx:
            plain, counted = self.ADD, self.ADD_COUNTED
        elif xx:
            plain, counted = self.REPLACE, self.REPLACE_COUNTED
        else:
            plain, counted = self.SET, self.SET_COUNTED
        result = yield from self.send(counted if self.counters.bounded else plain, [*row])
        if call_log.is_on(call_log.DEBUG):
            call_log.say("set" if result.command_tuples == 1 else "keep", row.key, detail=described(row))
        if result.command_tuples != 1:
            return False
        size, new, more = row.size, False, 0
        if result.ntuples:
            new, before = result.get_value(0, 0) == b"\x01", result.get_value(0, 1)
            more = size if new else size - integer(before) if before else 0
        if self.counters.wrote(entries=new, size=more, written=size):
            yield from self.eviction.clean()
        return True

    def row(
        self, key: bytes, value: Any, seconds: float | None, tags: Sequence[bytes] = (), stale: float = 0
    ) -> EntryRow:
        """Returns the parameters of a write. Raises what the serializer raises, and ValueTooLargeError."""
        codec, number, data = self.codec.encode(value)
        if data is not None and len(data) > self.fits and (error := self.too_large(key, len(data))):
            raise error
        values = (
            key, data, None if number is None else b"%d" % number, b"%d" % codec,
            seconds_param(seconds), stale_param(stale, seconds) if stale else b"0",
            text_array(tags) if tags else None,
        )  # fmt: skip
        return tuple.__new__(EntryRow, values)  # EntryRow(*values) takes 0.2 us more

    def row_in_thread(self, *arguments: Any) -> InThread:
        """Returns the wait for row(), for a value such as a queryset that asks the database when it is pickled. row()
        raises SynchronousOnlyOperation for such a value in the thread of an event loop.
        """
        return InThread(lambda: self.row(*arguments))

    def too_large(self, key: bytes, size: int) -> ValueTooLargeError | None:
        """Returns the error for a value of this number of bytes; None where it fits."""
        if size > FIELD_LIMIT:
            return ValueTooLargeError(self.name(key), size, FIELD_LIMIT, "one field of PostgreSQL")
        if (whole := size_of(len(key), size)) > self._max_bytes:
            return ValueTooLargeError(self.name(key), whole, self._max_bytes, "MAX_BYTES of its cache")
        return None

    DELETE = for_both_tables("DELETE FROM {table} WHERE key = %(key)s::text RETURNING " + LIVE + ", " + SIZE)

    def delete(self, key: bytes) -> Operation[bool]:
        """Deletes the entry. Returns whether it was live."""
        result = yield from self.send(self.DELETE, [key])
        if call_log.is_on(call_log.DEBUG):
            call_log.say("delete", key, detail="" if result.ntuples else "there was none")
        if not result.ntuples:
            return False
        yield from self.removed(1, integer(result.get_value(0, 1)))
        return result.get_value(0, 0) == b"\x01"

    def removed(self, entries: int, size: int) -> Operation[None]:
        """Counts what was deleted, and flushes large sums: other processes should know of these before they evict."""
        if self.counters.removed(entries, size):
            yield from self.eviction.flush()


def described(row: EntryRow) -> str:
    """Returns the size and the time to live of a write, for the log."""
    size = 8 if row.value is None else len(row.value)
    return f"{size} bytes, {'forever' if row.seconds is None else f'for {float(row.seconds):g} s'}"


def seconds_param(seconds: float | None) -> bytes | None:
    """Returns the seconds as they are sent. None (forever) also for more than the columns hold."""
    return None if seconds is None or seconds > LONGEST_SECONDS else b"%.6f" % seconds


def stale_param(stale: float, seconds: float | None) -> bytes:
    """Returns the seconds as they are sent: no more than the columns hold after those `seconds`."""
    return b"%f" % min(stale, max(LONGEST_SECONDS - (seconds or 0), 0))
