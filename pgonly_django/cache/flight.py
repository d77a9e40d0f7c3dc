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
from pgonly_django.cache.drive import Compute, Operation
from pgonly_django.cache.statement import Statement, text_array
from pgonly_django.cache.store import LIVE, Store
from pgonly_django.cache.wakeup import CHANNEL, Watch, listener_for, payload
from pgonly_django.exceptions import CacheError

PATIENCE = 2  # lock_timeouts that a caller waits: one for a computer that died, one for its successor
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
        """The value. A database that fails costs the caching, not the value (but with ON_ERROR "raise")."""
        try:
            found, value = yield from self._look()
            if found:
                return value
            token = yield from self._claim()
            if token is None:
                return (yield from self._wait())
        except CacheError as error:
            self._warn(error)
            return (yield Compute(self.function))
        return (yield from self._compute(token))

    # Served by the primary key, like every statement here.
    LOOK = Statement(
        "SELECT number, codec, value, " + LIVE + """, coalesce(claimed_until > clock_timestamp(), false),
        num_nonnulls(value, number) > 0 AND expires_at + $2 * interval '1 second' > clock_timestamp()
        FROM {table} WHERE key = $1""",
        "text float8",
    )  # fmt: skip

    def _look(self) -> Operation[tuple[bool, Any]]:
        """Whether there is a value to return, and the value. Of a stale one, one caller is not told."""
        result = yield from self.store.call(self.LOOK, (self.key, b"%f" % self.stale))
        live, claimed, stale = _flags(result)
        if self.store.usage.read(hits=live, misses=not live):
            yield from self.store.usage.tell()
        if live or (stale and claimed):
            return True, self.store.value(result, 0)
        return False, None

    CLAIM = Statement(
        """INSERT INTO {table} AS entry (key, codec, expires_at, prune_minute, claim, claimed_until, tags)
        SELECT $1, 0, to_timestamp(0), floor(date_part('epoch', until) / 60), $2, until, $4
        FROM (SELECT clock_timestamp() + $3 * interval '1 second') AS x (until)
        ON CONFLICT (key) DO UPDATE SET claim = EXCLUDED.claim, claimed_until = EXCLUDED.claimed_until,
            prune_minute = greatest(entry.prune_minute, EXCLUDED.prune_minute), tags = EXCLUDED.tags
        WHERE entry.expires_at <= clock_timestamp()
            AND (entry.claimed_until IS NULL OR entry.claimed_until <= clock_timestamp())""",
        "text int8 float8 text[]",
    )

    def _claim(self) -> Operation[int | None]:
        """A token for the right to compute; None when the value is there or somebody else computes."""
        token = secrets.randbits(63)
        tags = text_array(self.tags) if self.tags else None
        params = (self.key, b"%d" % token, b"%f" % self.lock_timeout, tags)
        result = yield from self.store.call(self.CLAIM, params)
        return token if result.command_tuples == 1 else None

    def _wait(self) -> Operation[Any]:
        """The other's value, or our own when the others fail, die or take too long."""
        watch = listener_for(self.store.pool.alias).watch(self.key)
        try:
            token = yield from self._wait_with(watch)
        finally:
            watch.close()
        if isinstance(token, _Found):
            return token.value
        return (yield from self._compute(token))

    def _wait_with(self, watch: Watch) -> Operation[_Found | int | None]:
        give_up_at = time.monotonic() + PATIENCE * self.lock_timeout
        while (remaining := give_up_at - time.monotonic()) > 0:
            result = yield from self.store.call(self.LOOK, (self.key, b"%f" % self.stale))
            live, claimed, stale = _flags(result)
            if live or (stale and claimed):
                return _Found(self.store.value(result, 0))
            if not claimed and (token := (yield from self._claim())) is not None:
                return token
            yield watch.next(remaining)
        return None

    def _compute(self, token: int | None) -> Operation[Any]:
        """No connection is held meanwhile. Without a token the value is returned but not stored."""
        try:
            value = yield Compute(self.function)
        except BaseException:
            yield from self._give_up(token)
            raise
        if token is not None:
            try:
                yield from self._fill(token, value)
            except CacheError as error:
                self._warn(error)
        return value

    FILL = Statement(
        """UPDATE {table} SET value = $2, number = $3, codec = $4, expires_at = e, tags = $7,
        prune_minute = floor((date_part('epoch', e) + $6) / 60), claim = NULL, claimed_until = NULL
        FROM (SELECT clock_timestamp() + $5 * interval '1 second') AS x (e)
        WHERE key = $1 AND claim = $8 RETURNING pg_notify('"""
        + CHANNEL
        + "', $9)",
        "text bytea int8 int2 float8 float8 text[] int8 text",
    )

    def _fill(self, token: int, value: Any) -> Operation[None]:
        """Store the value and wake the waiting, if the claim is still ours."""
        if self.timeout is not None and self.timeout <= 0:
            yield from self._give_up(token)
            return
        row = self.store.row(self.key, value, self.timeout, self.tags, self.stale)
        result = yield from self.store.call(self.FILL, (*row, b"%d" % token, payload(self.key)))
        if result.ntuples:
            yield from self.store.wrote(row, inserted=True)

    GIVE_UP = Statement(
        "UPDATE {table} SET claim = NULL, claimed_until = NULL WHERE key = $1 AND claim = $2 "
        "RETURNING pg_notify('" + CHANNEL + "', $3)",
        "text int8 text",
    )

    def _give_up(self, token: int | None) -> Operation[None]:
        """Let the next caller compute, now."""
        if token is None:
            return
        try:
            yield from self.store.call(self.GIVE_UP, (self.key, b"%d" % token, payload(self.key)))
        except CacheError as error:
            self._warn(error)

    def _warn(self, error: CacheError) -> None:
        if self.strict:
            raise error
        events.emit("cache.failed", f"get_or_set went without the cache: {error}", level=logging.WARNING)


@dataclass(frozen=True, slots=True)
class _Found:
    value: Any


def _flags(result: PGresult) -> tuple[bool, bool, bool]:
    """Of a LOOK: is the value live, does somebody compute it, may the old one still be shown."""
    if not result.ntuples:
        return False, False, False
    live, claimed, stale = (result.get_value(0, column) == _TRUE for column in (3, 4, 5))
    return live, claimed, stale
