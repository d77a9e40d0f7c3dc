"""get_or_set: of many callers who miss, one computes, the others wait for its answer.

The one who computes holds a claim in the entry's own row. So whatever removes or overwrites the row meanwhile
(delete, clear, delete_tags, set) also ends the claim, and a value computed from old data is not stored.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.pq.abc import PGresult

from pgonly_django import events
from pgonly_django.cache.background import later
from pgonly_django.cache.circle import computing, refuse_circle
from pgonly_django.cache.entry import LIVE, REWRITE, ROW_TYPES, SIZE, VALUE, Row, after, minute_of
from pgonly_django.cache.statement import Statement
from pgonly_django.cache.store import Store
from pgonly_django.database.binary import integer, text_array
from pgonly_django.database.listener import CHANNEL, Watch, listener_for, payload
from pgonly_django.database.operation import Compute, Operation, run
from pgonly_django.exceptions import CacheError, CacheUnavailableError, UnreadableEntryError

NEVER_STALE, LOCK_TIMEOUT = 0, 60.0  # get_or_set's own, in seconds
PATIENCE = 2  # lock_timeouts that a caller waits: one for a computer that died, one for its successor
UNCONFIRMED_SECONDS = 5  # PostgreSQL ends the statement of a client that is gone within about one
_TRUE = b"\x01"


@dataclass(slots=True)
class Flight:
    """One get_or_set call. Times in seconds; `lock_timeout` is how long a computation may take."""

    store: Store
    key: bytes
    function: Callable[[], Any]
    timeout: float | None
    stale: float
    lock_timeout: float
    tags: Sequence[bytes]
    strict: bool  # ON_ERROR is "raise"

    def run(self) -> Operation[Any]:
        """The value. A database that fails costs the caching, not the value (but with ON_ERROR "raise").

        What the function raises comes out as it is, a CacheError of its own too.
        """
        try:
            answer = yield from self._look_or_claim()
        except CacheError as error:
            self._warn(error)
            answer = None
        if isinstance(answer, _Found):
            return answer.value
        return (yield from self._compute(answer))

    def _look_or_claim(self) -> Operation[_Found | int | None]:
        """The value, or a token to compute it with; None: compute it for this caller only."""
        found = yield from self._look()
        yield from self.store.read(hits=found.is_live, misses=not found.is_live)
        if found.is_shown:
            return found
        refuse_circle(self.store.place(self.key), self.store.name(self.key))
        if self.timeout is not None and self.timeout <= 0:
            return None  # nobody is given what is not stored, so nobody shall wait for it
        token = yield from self._claim()
        return token if token is not None else (yield from self._wait())

    # Served by the primary key, like every statement here.
    LOOK = Statement(
        f"SELECT {VALUE}, {LIVE}" + """, coalesce(claimed_until > clock_timestamp(), false),
        num_nonnulls(value, number) > 0 AND expires_at + $2 * interval '1 second' > clock_timestamp()
        FROM {table} WHERE key = $1""",
        "text float8",
    )  # fmt: skip

    def _look(self) -> Operation[_Found]:
        """What is there for us: of a stale value, one caller is not told."""
        result = yield from self.store.call(self.LOOK, (self.key, b"%f" % self.stale))
        if not result.ntuples:
            return _Found()
        live, claimed, stale = (result.get_value(0, column) == _TRUE for column in (3, 4, 5))
        if not (live or (stale and claimed)):
            return _Found(is_claimed=claimed)
        try:
            value = self.store.value(result, 0)
        except UnreadableEntryError as error:
            return (yield from self._replace(result, error))
        return _Found(value, is_live=live, is_shown=True)

    EXPIRE = Statement(
        """UPDATE {table} SET expires_at = to_timestamp(0) WHERE key = $1 AND codec = $2
        AND value IS NOT DISTINCT FROM $3""",
        "text int2 bytea",
    )

    def _replace(self, result: PGresult, error: UnreadableEntryError) -> Operation[_Found]:
        """Let one caller compute what none like us can read, instead of every caller for ever."""
        _note(error)
        codec, data = integer(result.get_value(0, 1)), result.get_value(0, 2)
        yield from self.store.call(self.EXPIRE, (self.key, b"%d" % codec, data))
        return _Found()

    # With the tags of a value that is shown stale meanwhile, so that a deletion by any of them ends both.
    CLAIM = Statement(
        f"""INSERT INTO {{table}} AS entry (key, codec, expires_at, prune_minute, claim, claimed_until, tags)
        SELECT $1, 0, to_timestamp(0), {minute_of("e")}, $2, e, $4 FROM {after("$3")}
        ON CONFLICT (key) DO UPDATE SET claim = EXCLUDED.claim, claimed_until = EXCLUDED.claimed_until,
            prune_minute = greatest(entry.prune_minute, EXCLUDED.prune_minute),
            tags = CASE WHEN entry.tags @> EXCLUDED.tags THEN entry.tags ELSE entry.tags || EXCLUDED.tags END
        WHERE entry.expires_at <= clock_timestamp()
            AND (entry.claimed_until IS NULL OR entry.claimed_until <= clock_timestamp())
        RETURNING xmax = 0, """
        + SIZE,
        "text int8 float8 text[]",
    )

    def _claim(self) -> Operation[int | None]:
        """A token for the right to compute; None when the value is there or somebody else computes."""
        token = secrets.randbits(63)
        tags = text_array(self.tags) if self.tags else None
        params = (self.key, b"%d" % token, b"%f" % self.lock_timeout, tags)
        try:
            result = yield from self.store.call(self.CLAIM, params)
        except BaseException:
            self._give_up_later(token, unconfirmed=True)  # it may be ours, though we were not told
            raise
        if not result.ntuples:
            return None
        if result.get_value(0, 0) == _TRUE:
            self.store.counters.wrote(entries=1, size=integer(result.get_value(0, 1)), written=0, writes=0)
        return token

    def _wait(self) -> Operation[_Found | int | None]:
        """The other's value, or a token of our own when the others fail, die or take too long."""
        watch = listener_for(self.store.pool.alias).watch(self.key)
        try:
            return (yield from self._wait_with(watch))
        finally:
            watch.close()

    def _wait_with(self, watch: Watch) -> Operation[_Found | int | None]:
        give_up_at = time.monotonic() + PATIENCE * self.lock_timeout
        while (remaining := give_up_at - time.monotonic()) > 0:
            found = yield from self._look()
            if found.is_shown:
                return found
            if not found.is_claimed and (token := (yield from self._claim())) is not None:
                return token
            yield watch.next(remaining)
        return None

    def _compute(self, token: int | None) -> Operation[Any]:
        """No connection is held meanwhile. Without a token the value is returned but not stored."""
        try:
            value = yield Compute(
                computing(self.store.place(self.key), self.store.name(self.key), self.function)
            )
        except GeneratorExit:  # whoever waited for this is gone, and nothing more can be awaited
            self._give_up_later(token)
            raise
        except BaseException:
            yield from self._give_up(token)
            raise
        if token is not None:
            yield from self._keep(token, value)
        return value

    def _keep(self, token: int, value: Any) -> Operation[None]:
        """Store the value. Raises what the serializer raises."""
        try:
            row = yield from self.store.made(self.key, value, self.timeout, self.tags, self.stale)
        except Exception as error:
            yield from self._give_up(token)
            if not isinstance(error, CacheError):
                raise
            self._warn(error)
        else:
            yield from self._store(token, row)

    def _store(self, token: int, row: Row) -> Operation[None]:
        """What was paid for is stored, if need be after the database is back, or the caller is gone."""
        try:
            yield from self._fill(token, row)
        except BaseException as error:
            if isinstance(error, CacheError) and not isinstance(error, CacheUnavailableError):
                yield from self._give_up(token)
            else:
                later.add(lambda: run(self._fill(token, row)), self.lock_timeout)
            if not isinstance(error, CacheError):
                raise
            self._warn(error)

    FILL = Statement(
        "UPDATE {table} "
        + REWRITE
        + " WHERE key = $1 AND claim = $8 RETURNING pg_notify('"
        + CHANNEL
        + "', $9), (SELECT "
        + SIZE
        + " FROM {table} AS before WHERE before.key = $1)",
        f"{ROW_TYPES} int8 text",
    )

    def _fill(self, token: int, row: Row) -> Operation[None]:
        """Write the row and wake the waiting, if the claim is still ours."""
        result = yield from self.store.call(self.FILL, (*row, b"%d" % token, payload(self.key)))
        if result.ntuples:
            size, before = row.size, integer(result.get_value(0, 1))
            if self.store.counters.wrote(entries=0, size=size - before, written=size):
                yield from self.store.eviction.clean()

    GIVE_UP = Statement(
        "UPDATE {table} SET claim = NULL, claimed_until = NULL WHERE key = $1 AND claim = $2 "
        "RETURNING pg_notify('" + CHANNEL + "', $3)",
        "text int8 text",
    )

    def _give_up(self, token: int | None) -> Operation[None]:
        """Let the next caller compute, now. Never hides the reason for it behind an error of its own."""
        if token is None:
            return
        try:
            yield from self._end_claim(token)
        except CacheError as error:
            _note(error)
            self._give_up_later(token)
        except BaseException:
            self._give_up_later(token)
            raise

    def _give_up_later(self, token: int | None, *, unconfirmed: bool = False) -> None:
        """In the background. An unconfirmed claim may still be on its way: until it cannot be any more."""
        if token is not None:
            seconds = UNCONFIRMED_SECONDS if unconfirmed else self.lock_timeout
            later.add(lambda: run(self._end_claim(token, unconfirmed=unconfirmed)), seconds)

    def _end_claim(self, token: int, *, unconfirmed: bool = False) -> Operation[None]:
        result = yield from self.store.call(self.GIVE_UP, (self.key, b"%d" % token, payload(self.key)))
        if unconfirmed and not result.ntuples:
            raise CacheError("There is no such claim yet.")  # to be tried again

    def _warn(self, error: CacheError) -> None:
        if self.strict:
            raise error
        _note(error)


@dataclass(frozen=True, slots=True)
class _Found:
    """What stands under the key. `is_shown`: `value` is for this caller, because it is live, or stale and
    being refreshed by another."""

    value: Any = None
    is_live: bool = False
    is_shown: bool = False
    is_claimed: bool = False


def _note(error: CacheError) -> None:
    events.emit("cache.failed", f"get_or_set went without the cache: {error}", level=logging.WARNING)
