"""get_or_set(): of many callers who miss, one computes and the others wait for its answer.

The caller that computes holds a claim in the row of the entry. So a delete(), clear(), delete_tags() or set() during
the computation also ends the claim, and a value that was computed from old data is not stored.
"""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation

from pgonly_django import events
from pgonly_django.cache import call_log
from pgonly_django.cache.entry import (
    CHANNEL,
    LIVE,
    REWRITE,
    ROW,
    SIZE,
    VALUE,
    WAKE_UP,
    EntryRow,
    after,
    for_both_tables,
    minute_of,
)
from pgonly_django.cache.options import CACHE, background
from pgonly_django.cache.store import Store, described
from pgonly_django.database.listener import listener_for, payload
from pgonly_django.database.operation import Compute, Operation, run
from pgonly_django.database.statement import integer
from pgonly_django.exceptions import (
    CacheError,
    CacheUnavailableError,
    CircularComputationError,
    UnreadableEntryError,
)

NEVER_STALE, LOCK_TIMEOUT = 0, 60.0  # the defaults of get_or_set(), in seconds
PATIENCE = 2  # lock_timeouts that a caller waits: one for a caller that died computing, one for its successor
_TRUE = b"\x01"


@dataclass(frozen=True, slots=True)
class _Found:
    value: Any = None
    is_live: bool = False
    is_shown: bool = False  # this caller gets `value`: it is live, or stale while another caller refreshes it
    is_claimed: bool = False  # another caller computes


@dataclass(slots=True)
class _Computation:
    """The computation of one entry: the call of its function, and the awaiting of what that returned."""

    place: tuple[str, bool, bytes]
    name: str
    is_over: bool = False

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Stands around the computation. A task that the computation started belongs to it until it has ended."""
        self.is_over, token = False, _running.set((*_running.get(), self))
        try:
            yield
        finally:
            self.is_over = True
            with suppress(ValueError):  # the garbage collector ends a forgotten task in another context
                _running.reset(token)

    async def awaited(self, value: Awaitable[Any]) -> Any:
        with self.under_way():
            return await value


_running: ContextVar[tuple[_Computation, ...]] = ContextVar("pgonly_cache_computing", default=())


@dataclass(slots=True)
class SingleFlight:
    """One call of get_or_set(). Times in seconds; `lock_timeout` is how long a computation may take."""

    store: Store
    key: bytes
    function: Callable[[], Any]
    timeout: float | None
    stale: float
    lock_timeout: float
    tags: Sequence[bytes]
    strict: bool  # ON_ERROR is "raise"

    def run(self) -> Operation[Any]:
        """Returns the value. If the database fails before the computation, the value is computed and not stored (with
        ON_ERROR "raise" this raises). If the database fails afterwards, the value is returned, and stored later. What
        the function raises is raised unchanged, even a CacheError.
        """
        try:
            answer = yield from self._look_or_claim()
        except CacheError as error:
            if self.strict:
                raise
            _note(error)
            answer = None
        if isinstance(answer, _Found):
            return answer.value
        return (yield from self._compute(answer))

    def _look_or_claim(self) -> Operation[_Found | int | None]:
        """Returns the value, or a token to compute the value with; None: compute it for this caller only."""
        found = yield from self._look()
        hits, is_stale = [self.key] if found.is_live else [], found.is_shown and not found.is_live
        yield from self.store.count([self.key], hits, "stale" if is_stale else "")
        if found.is_shown:
            return found
        self._refuse_circular()
        if self.timeout is not None and self.timeout <= 0:
            return None  # the value will not be stored, so no caller should wait for it
        token = yield from self._claim()
        return token if token is not None else (yield from self._wait())

    # Served by the primary key, like every statement here.
    LOOK = for_both_tables(
        f"""SELECT {VALUE}, {LIVE}, coalesce(claimed_until > clock_timestamp(), false),
        num_nonnulls(value, number) > 0
            AND expires_at + %(stale)s::float8 * interval '1 second' > clock_timestamp()
        FROM {{table}} WHERE key = %(key)s::text"""
    )
    # An entry that cannot be read here expires: then one caller replaces it, and not every caller computes.
    EXPIRE = for_both_tables(
        """UPDATE {table} SET expires_at = to_timestamp(0) WHERE key = %(key)s::text AND codec = %(codec)s::int2
        AND value IS NOT DISTINCT FROM %(value)s::bytea"""
    )

    def _look(self) -> Operation[_Found]:
        """Returns what is in the cache for this caller. A stale value counts only while another caller refreshes it."""
        result = yield from self.store.call(self.LOOK, key=self.key, stale=self.stale)
        if not result.ntuples:
            return _Found()
        live, claimed, stale = (result.get_value(0, column) == _TRUE for column in (3, 4, 5))
        if not (live or (stale and claimed)):
            return _Found(is_claimed=claimed)
        try:
            value = self.store.value(result, 0)
        except UnreadableEntryError as error:
            _note(error)
            codec, data = integer(result.get_value(0, 1)), result.get_value(0, 2)
            yield from self.store.call(self.EXPIRE, key=self.key, codec=codec, value=data)
            return _Found()
        return _Found(value, is_live=live, is_shown=True)

    # The tags of a stale value stay, so that a deletion by any of them ends the value and the claim.
    CLAIM = for_both_tables(
        f"""INSERT INTO {{table}} AS entry (key, codec, expires_at, prune_minute, claim, claimed_until, tags)
        SELECT %(key)s::text, 0, to_timestamp(0), {minute_of("e")}, %(token)s::int8, e, %(tags)s::text[]
        FROM {after("%(seconds)s::float8")}
        ON CONFLICT (key) DO UPDATE SET claim = EXCLUDED.claim, claimed_until = EXCLUDED.claimed_until,
            prune_minute = greatest(entry.prune_minute, EXCLUDED.prune_minute),
            tags = CASE WHEN entry.tags @> EXCLUDED.tags THEN entry.tags ELSE entry.tags || EXCLUDED.tags END
        WHERE entry.expires_at <= clock_timestamp()
            AND (entry.claimed_until IS NULL OR entry.claimed_until <= clock_timestamp())
        RETURNING xmax = 0, {SIZE}"""
    )

    def _claim(self) -> Operation[int | None]:
        """Returns a token, which is the right to compute; None where the value is there or another caller computes."""
        token = secrets.randbits(63)
        try:
            result = yield from self.store.call(
                self.CLAIM, key=self.key, token=token, seconds=self.lock_timeout, tags=self.tags or None
            )
        except BaseException as error:
            if CACHE.may_be_done(error):
                background.undo(lambda: run(self._end_claim(token)))
            raise
        if not result.ntuples:
            return None
        if result.get_value(0, 0) == _TRUE:
            self.store.counters.wrote(entries=1, size=integer(result.get_value(0, 1)), written=0, writes=0)
        return token

    def _wait(self) -> Operation[_Found | int | None]:
        """Returns the other caller's value, or a token for this one when the other fails, dies or takes too long."""
        give_up_at = time.monotonic() + PATIENCE * self.lock_timeout
        with closing(listener_for(self.store.pool.alias, CHANNEL).watch(self.key)) as watch:
            while (remaining := give_up_at - time.monotonic()) > 0:
                found = yield from self._look()
                if found.is_shown:
                    return found
                if not found.is_claimed and (token := (yield from self._claim())) is not None:
                    return token
                yield watch.next(remaining)
        return None

    def _compute(self, token: int | None) -> Operation[Any]:
        """Computes without holding a connection. Without a token the value is returned but not stored."""
        try:
            value = yield Compute(self._call)
        except BaseException as error:
            if token is not None:
                yield from self._give_up(token, error)
            raise
        if token is not None:
            yield from self._store(token, value)
        return value

    def _refuse_circular(self) -> None:
        """Raises CircularComputationError where the caller computes this entry, or is part of its computation."""
        place, running = self.store.place(self.key), [each for each in _running.get() if not each.is_over]
        if any(each.place == place for each in running):
            raise CircularComputationError([*(each.name for each in running), self.store.name(self.key)])

    def _call(self) -> Any:
        computation = _Computation(self.store.place(self.key), self.store.name(self.key))
        with computation.under_way():
            value = self.function()
        return computation.awaited(value) if isawaitable(value) else value

    def _store(self, token: int, value: Any) -> Operation[None]:
        """Stores the value. Raises what the serializer raises. If the database is unavailable, the value is stored in
        the background: it was paid for."""
        row: EntryRow | None = None
        arguments = self.key, value, self.timeout, self.tags, self.stale
        try:
            try:
                row = self.store.row(*arguments)
            except SynchronousOnlyOperation:
                row = yield self.store.row_in_thread(*arguments)
            yield from self._fill(token, row)
        except BaseException as error:
            is_refused = isinstance(error, CacheError) and not isinstance(error, CacheUnavailableError)
            if row is None or is_refused:
                yield from self._give_up(token, error)
            else:
                self._store_later(token, row)
            if not isinstance(error, CacheError):
                raise
            _note_unstored(error)

    def _store_later(self, token: int, row: EntryRow) -> None:
        def store() -> None:
            try:
                run(self._fill(token, row))
            except CacheUnavailableError:
                raise  # so the background tries again
            except CacheError as error:
                _note_unstored(error)
                run(self._end_claim(token))

        background.add(store, self.lock_timeout)

    FILL = for_both_tables(
        f"""UPDATE {{table}} {REWRITE} WHERE key = %(key)s::text AND claim = %(token)s::int8
        RETURNING {WAKE_UP}, (SELECT {SIZE} FROM {{table}} AS before WHERE before.key = %(key)s::text)""",
        f"{ROW} token payload",
    )

    def _fill(self, token: int, row: EntryRow) -> Operation[None]:
        """Writes the row and wakes the callers who wait, if the claim is still ours."""
        result = yield from self.store.send(self.FILL, [*row, b"%d" % token, payload(self.key)])
        if call_log.is_on(call_log.DEBUG):
            call_log.say("set" if result.ntuples else "keep", row.key, detail=described(row))
        if result.ntuples:
            size, before = row.size, integer(result.get_value(0, 1))
            if self.store.counters.wrote(entries=0, size=size - before, written=size):
                yield from self.store.eviction.clean()

    GIVE_UP = for_both_tables(
        f"""UPDATE {{table}} SET claim = NULL, claimed_until = NULL
        WHERE key = %(key)s::text AND claim = %(token)s::int8 RETURNING {WAKE_UP}"""
    )

    def _give_up(self, token: int, error: BaseException) -> Operation[None]:
        """Lets the next caller compute: now, or when the database is back."""
        is_ended = False
        try:
            if not isinstance(error, GeneratorExit):  # an operation that is closed can await nothing
                yield from self._end_claim(token)
                is_ended = True
        except CacheError as failure:  # which must not hide `error`
            _note(failure)
        finally:
            if not is_ended:
                background.add(lambda: run(self._end_claim(token)), self.lock_timeout)

    def _end_claim(self, token: int) -> Operation[bool]:
        """Ends the claim. Returns whether there was one."""
        result = yield from self.store.call(
            self.GIVE_UP, key=self.key, token=token, payload=payload(self.key)
        )
        return result.ntuples > 0


def _note(error: CacheError) -> None:
    events.emit("cache.failed", f"get_or_set continued without the cache: {error}", level=logging.WARNING)


def _note_unstored(error: CacheError) -> None:
    """Notes that the value is not stored. Its caller gets it all the same, with every ON_ERROR: it was paid for."""
    events.emit("cache.failed", f"get_or_set could not store its value: {error}", level=logging.WARNING)
