"""A lock across all processes: a row with a token and an expiry, so that the lock of a dead holder becomes free."""

import logging
import secrets
import threading
import time
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Self

from pgonly_django import events
from pgonly_django.cache.durations import positive, seconds
from pgonly_django.cache.entry import CHANNEL, WAKE_UP
from pgonly_django.cache.options import CACHE, background
from pgonly_django.cache.store import Store
from pgonly_django.database import testrun
from pgonly_django.database.background import UNANSWERED_SECONDS
from pgonly_django.database.listener import listener_for, payload
from pgonly_django.database.operation import Operation, run
from pgonly_django.database.statement import Statement, integer
from pgonly_django.exceptions import CacheError, LockError, LockNotAcquiredError
from pgonly_django.tables import qualified

Duration = float | timedelta  # seconds, or a timedelta
LEASE_SECONDS = 30.0  # of a lock without a timeout; its holder renews it every 10 s
RELEASES_PER_CLEANING = 1000  # on average, over all processes
PRUNE_LIMIT = 2 * RELEASES_PER_CLEANING  # more than were released since the last cleaning

# Deletes free locks, and those of dead holders, after an hour: a TAKE may have got its token long before it meets the
# row, and without the row it would insert that token, which is older than tokens given since. Few rows: no index.
PRUNE_LOCKS = qualified("""
WITH gone AS (DELETE FROM pgonly_cache_lock WHERE name = ANY(ARRAY(
    SELECT name FROM pgonly_cache_lock WHERE expires_at < clock_timestamp() - interval '1 hour'
    LIMIT %(limit)s::int8 FOR UPDATE SKIP LOCKED
)) RETURNING 1) SELECT count(*) FROM gone
""")


class Lock:
    """A lock that one holder at a time has, across all processes: `with cache.lock("name", timeout=60): ...`, or `async
    with`.

    After `timeout` seconds the lock is free even if its holder still works. Without a timeout it is held until it is
    released, and becomes free 30 s after its process has died. `token` grows with every acquisition: pass it to the
    resource that you protect, and let that refuse a smaller token. Then a holder that slept past its timeout does no
    harm.
    """

    def __init__(
        self, store: Store, key: bytes, name: str, timeout: Duration | None, blocking_timeout: Duration | None,
        *, blocking: bool = True,
    ) -> None:  # fmt: skip
        self.name, self.token, self._holder = name, 0, b""
        self.blocking, self.blocking_timeout = blocking, _not_below_zero(blocking_timeout)
        self._store, self._key = store, key
        self._lease = LEASE_SECONDS if timeout is None else positive(timeout, "A lock's timeout")
        self._is_renewed, self._stop_renewal = timeout is None, threading.Event()

    def acquire(self, blocking: bool | None = None, blocking_timeout: Duration | None = None) -> bool:
        """Acquires the lock. Returns False if it was not free within `blocking_timeout` seconds (None: no limit)."""
        return run(self._acquire(self._patience(blocking, blocking_timeout)))

    async def aacquire(self, blocking: bool | None = None, blocking_timeout: Duration | None = None) -> bool:
        """See acquire()."""
        return await self._store.pool.arun(self._acquire(self._patience(blocking, blocking_timeout)))

    def release(self) -> None:
        """Releases the lock. Raises LockError when it is not held here (any more)."""
        run(self._release())

    async def arelease(self) -> None:
        """See release()."""
        await self._store.pool.arun(self._release())

    def extend(self, seconds: Duration) -> None:
        """Holds the lock for `seconds` (or a timedelta) from now. Raises LockError when it is not held here."""
        run(self._extend(positive(seconds, "The time to extend a lock by")))

    async def aextend(self, seconds: Duration) -> None:
        """See extend()."""
        await self._store.pool.arun(self._extend(positive(seconds, "The time to extend a lock by")))

    def locked(self) -> bool:
        """Returns whether the lock is held, by this object or another."""
        return run(self._is_held(b""))

    def owned(self) -> bool:
        """Returns whether this object holds the lock."""
        return bool(self._holder) and run(self._is_held(self._holder))

    def __enter__(self) -> Self:
        if not self.acquire():
            raise LockNotAcquiredError(self.name, self.blocking_timeout)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        if not await self.aacquire():
            raise LockNotAcquiredError(self.name, self.blocking_timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.arelease()

    def _patience(self, blocking: bool | None, blocking_timeout: Duration | None) -> float:
        """Returns the number of seconds that acquire() waits."""
        if not (self.blocking if blocking is None else blocking):
            return 0.0
        chosen = self.blocking_timeout if blocking_timeout is None else _not_below_zero(blocking_timeout)
        return float("inf") if chosen is None else chosen

    # Served by the primary key, like every statement here. The UPDATE takes another token, under the lock of the
    # row: the one that the INSERT took may be older than that of the last holder.
    TAKE = Statement(
        qualified("""INSERT INTO pgonly_cache_lock AS lock (name, expires_at, holder)
        VALUES (%(name)s::text, clock_timestamp() + %(lease)s::float8 * interval '1 second', %(holder)s::text)
        ON CONFLICT (name) DO UPDATE SET token = nextval('pgonly_cache_lock_token'::regclass),
        expires_at = clock_timestamp() + %(lease)s::float8 * interval '1 second', holder = EXCLUDED.holder
        WHERE (lock.holder IS NULL OR lock.expires_at <= clock_timestamp())
        AND %(holder)s::text <> ALL (coalesce(lock.refused, '{}')) RETURNING token""")
    )

    def _acquire(self, patience: float) -> Operation[bool]:
        """Acquires the lock. If it may have taken the lock before an error (Ctrl+C, say), it gives the lock back."""
        holder, is_waiting = secrets.token_hex(8).encode(), False
        try:
            if (yield from self._take(holder)):
                return True
            if patience <= 0:
                return False
            give_up_at = time.monotonic() + patience
            with closing(listener_for(self._store.pool.alias, CHANNEL).watch(self._key)) as watch:
                while not (yield from self._take(holder)):
                    remaining = give_up_at - time.monotonic()
                    if remaining <= 0:
                        return False
                    is_waiting = True  # and holds nothing
                    yield watch.next(remaining)
                    is_waiting = False
        except BaseException as error:
            if not is_waiting and CACHE.may_be_done(error):
                self._forget(holder)
                self._give_back_later(holder)
            raise
        return True

    def _take(self, holder: bytes) -> Operation[bool]:
        result = yield from self._store.call(self.TAKE, name=self._key, lease=self._lease, holder=holder)
        if not result.ntuples:
            return False
        self.token, self._holder = integer(result.get_value(0, 0)), holder
        self._start_renewal()
        return True

    def _start_renewal(self) -> None:
        """Starts the renewal, except in a TestCase, whose transaction no other thread can use."""
        if self._is_renewed and not (testrun.is_on() and testrun.is_any_in_testcase(self._store.pool.alias)):
            self._stop_renewal = stop = threading.Event()
            threading.Thread(target=self._renew, args=(stop,), name="pgonly cache lock", daemon=True).start()

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(LEASE_SECONDS / 3):
            try:
                self.extend(LEASE_SECONDS)
            except LockError as error:
                if not stop.is_set():
                    events.emit("cache.lock_lost", str(error), level=logging.ERROR)
                return
            except testrun.Refusal:  # a test that held the lock is over
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the lock is held and wants to be renewed
                message, is_known = f"Lock {self.name!r} not renewed: {error}", isinstance(error, CacheError)
                events.emit("cache.failed", message, level=logging.WARNING, exc_info=not is_known)

    # The row stays, so that the next holder takes its token under the lock of the row.
    RELEASE = Statement(
        qualified(f"""UPDATE pgonly_cache_lock SET holder = NULL, expires_at = clock_timestamp()
        WHERE name = %(name)s::text AND holder = %(holder)s::text RETURNING {WAKE_UP}""")
    )

    def _release(self) -> Operation[None]:
        holder = self._holder
        self._forget(holder)
        try:
            result = yield from self._store.call(
                self.RELEASE, name=self._key, holder=holder, payload=payload(self._key)
            )
        except BaseException:
            self._give_back_later(holder)
            raise
        if not result.ntuples:
            raise LockError(self.name, "released")
        if secrets.randbelow(RELEASES_PER_CLEANING) == 0:
            yield from self._prune()

    def _forget(self, holder: bytes) -> None:
        """Notes that this object holds nothing any more, unless it has acquired the lock again since."""
        if holder == self._holder:
            self.token, self._holder = 0, b""
            self._stop_renewal.set()

    # It may also arrive before the TAKE that it gives back: that TAKE is refused then.
    GIVE_BACK = Statement(
        qualified(f"""INSERT INTO pgonly_cache_lock AS lock (name, expires_at, refused)
        VALUES (%(name)s::text, clock_timestamp(), ARRAY[%(holder)s::text])
        ON CONFLICT (name) DO UPDATE SET refused = (%(holder)s::text || coalesce(lock.refused, '{{}}'))[1:100],
        holder = nullif(lock.holder, %(holder)s::text),
        expires_at = CASE WHEN lock.holder = %(holder)s::text THEN clock_timestamp() ELSE lock.expires_at END
        RETURNING {WAKE_UP}""")
    )

    def _give_back_later(self, holder: bytes) -> None:
        """Gives the lock back in the background, so that a cancelled caller does not wait. The lease may begin only
        when PostgreSQL answers again, and may have been extended."""
        call, key = self._store.call, self._key
        give_back = partial(call, self.GIVE_BACK, name=key, holder=holder, payload=payload(key))
        background.add(lambda: run(give_back()), max(self._lease, UNANSWERED_SECONDS))

    PRUNE = Statement(PRUNE_LOCKS, may_take_long=True)

    def _prune(self) -> Operation[None]:
        """Deletes the rows of locks that were free for an hour. Never fails the release before it."""
        try:
            yield from self._store.call(self.PRUNE, self._store.long_timeout, limit=PRUNE_LIMIT)
        except CacheError as error:
            message = f"Pruning free locks failed: {error}"
            events.emit("cache.cleaning_failed", message, level=logging.WARNING)

    EXTEND = Statement(
        qualified("""UPDATE pgonly_cache_lock
        SET expires_at = clock_timestamp() + %(seconds)s::float8 * interval '1 second'
        WHERE name = %(name)s::text AND holder = %(holder)s::text""")
    )

    def _extend(self, seconds: float) -> Operation[None]:
        result = yield from self._store.call(
            self.EXTEND, name=self._key, holder=self._holder, seconds=seconds
        )
        if result.command_tuples != 1:
            raise LockError(self.name, "extended")

    HELD = Statement(
        qualified("""SELECT FROM pgonly_cache_lock
        WHERE name = %(name)s::text AND expires_at > clock_timestamp()
        AND holder = coalesce(nullif(%(holder)s::text, ''), holder)""")
    )

    def _is_held(self, holder: bytes) -> Operation[bool]:
        """Returns whether `holder` has the lock, or any holder if `holder` is empty."""
        result = yield from self._store.call(self.HELD, name=self._key, holder=holder)
        return result.ntuples == 1


def _not_below_zero(blocking_timeout: Duration | None) -> float | None:
    """Returns the seconds as 0 or more: a caller may pass the rest of a time, which is negative after its end."""
    return None if blocking_timeout is None else max(0.0, seconds(blocking_timeout, "blocking_timeout"))
