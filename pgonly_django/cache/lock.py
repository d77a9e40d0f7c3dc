"""A lock over all processes: a row with a token and an expiry, so a dead holder blocks nobody for long."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Self

from pgonly_django import events
from pgonly_django.cache.drive import Operation, arun, run
from pgonly_django.cache.statement import Statement, integer
from pgonly_django.cache.store import Store
from pgonly_django.cache.wakeup import CHANNEL, Watch, listener_for, payload
from pgonly_django.exceptions import CacheError, LockError, LockNotAcquiredError

LEASE_SECONDS = 30.0  # of a lock without a timeout, renewed by its holder three times as often


class Lock:
    """`with cache.lock("name", timeout=60): ...`, or `async with`. One holder at a time, over all processes.

    After `timeout` seconds the lock is free whatever its holder does; without one it is held until released,
    and free 30 s after its process died. `token` grows with every acquisition: give it to what you protect
    and let that refuse a smaller one, then even a holder that slept through its timeout does no harm.
    """

    def __init__(
        self, store: Store, key: bytes, name: str, timeout: float | None, blocking_timeout: float | None,
        *, blocking: bool = True,
    ) -> None:  # fmt: skip
        self.name, self.token = name, 0
        self.blocking, self.blocking_timeout = blocking, blocking_timeout
        self._store, self._key = store, key
        self._lease = LEASE_SECONDS if timeout is None else timeout
        self._renewal = _Renewal(self) if timeout is None else None

    def acquire(self, blocking: bool | None = None, blocking_timeout: float | None = None) -> bool:
        """True: it is ours now. False: it was not free within `blocking_timeout` seconds (None: wait on)."""
        return run(self._acquire(self._patience(blocking, blocking_timeout)))

    async def aacquire(self, blocking: bool | None = None, blocking_timeout: float | None = None) -> bool:
        """See acquire()."""
        return await arun(self._acquire(self._patience(blocking, blocking_timeout)))

    def release(self) -> None:
        """Raises LockError when it is not ours (any more)."""
        run(self._release())

    async def arelease(self) -> None:
        """See release()."""
        await arun(self._release())

    def extend(self, seconds: float) -> None:
        """Hold it for `seconds` from now. Raises LockError when it is not ours (any more)."""
        run(self._extend(seconds))

    async def aextend(self, seconds: float) -> None:
        """See extend()."""
        await arun(self._extend(seconds))

    def locked(self) -> bool:
        """True when anybody holds it."""
        return run(self._is_held(b"0"))

    def owned(self) -> bool:
        """True when this object holds it."""
        return bool(self.token) and run(self._is_held(b"%d" % self.token))

    def __enter__(self) -> Self:
        if not self.acquire():
            raise LockNotAcquiredError(self.name, self.blocking_timeout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        if not await self.aacquire():
            raise LockNotAcquiredError(self.name, self.blocking_timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.arelease()

    def _patience(self, blocking: bool | None, blocking_timeout: float | None) -> float:
        """How many seconds to wait for it."""
        if not (self.blocking if blocking is None else blocking):
            return 0.0
        chosen = self.blocking_timeout if blocking_timeout is None else blocking_timeout
        return float("inf") if chosen is None else chosen

    # Served by the primary key, like every statement here.
    TAKE = Statement(
        """INSERT INTO pgonly_cache_lock AS lock (name, expires_at)
        VALUES ($1, clock_timestamp() + $2 * interval '1 second')
        ON CONFLICT (name) DO UPDATE SET token = EXCLUDED.token, expires_at = EXCLUDED.expires_at
        WHERE lock.expires_at <= clock_timestamp() RETURNING token""",
        "text float8",
    )

    def _acquire(self, patience: float) -> Operation[bool]:
        if (yield from self._take()):
            return True
        if patience <= 0:
            return False
        watch = listener_for(self._store.pool.alias).watch(self._key)
        try:
            return (yield from self._acquire_with(watch, time.monotonic() + patience))
        finally:
            watch.close()

    def _acquire_with(self, watch: Watch, give_up_at: float) -> Operation[bool]:
        while not (yield from self._take()):
            remaining = give_up_at - time.monotonic()
            if remaining <= 0:
                return False
            yield watch.next(remaining)
        return True

    def _take(self) -> Operation[bool]:
        result = yield from self._store.call(self.TAKE, (self._key, b"%f" % self._lease))
        if not result.ntuples:
            return False
        self.token = integer(result.get_value(0, 0))
        if self._renewal:
            self._renewal.start()
        return True

    RELEASE = Statement(
        "DELETE FROM pgonly_cache_lock WHERE name = $1 AND token = $2 RETURNING pg_notify('"
        + CHANNEL
        + "', $3)",
        "text int8 text",
    )

    def _release(self) -> Operation[None]:
        token, self.token = self.token, 0
        if self._renewal:
            self._renewal.stop()
        result = yield from self._store.call(self.RELEASE, (self._key, b"%d" % token, payload(self._key)))
        if not result.ntuples:
            raise LockError(self.name, "released")

    EXTEND = Statement(
        """UPDATE pgonly_cache_lock SET expires_at = clock_timestamp() + $3 * interval '1 second'
        WHERE name = $1 AND token = $2""",
        "text int8 float8",
    )

    def _extend(self, seconds: float) -> Operation[None]:
        params = self._key, b"%d" % self.token, b"%f" % seconds
        result = yield from self._store.call(self.EXTEND, params)
        if result.command_tuples != 1:
            raise LockError(self.name, "extended")

    HELD = Statement(
        """SELECT FROM pgonly_cache_lock
        WHERE name = $1 AND expires_at > clock_timestamp() AND $2 IN (0, token)""",
        "text int8",
    )

    def _is_held(self, token: bytes) -> Operation[bool]:
        result = yield from self._store.call(self.HELD, (self._key, token))
        return result.ntuples == 1


class _Renewal:
    """Extends a held lock in the background until it is released or lost."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._stop = threading.Event()

    def start(self) -> None:
        self._stop = threading.Event()
        threading.Thread(
            target=self._renew, args=(self._stop,), name="pgonly cache lock", daemon=True
        ).start()

    def stop(self) -> None:
        self._stop.set()

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(LEASE_SECONDS / 3):
            try:
                self._lock.extend(LEASE_SECONDS)
            except CacheError as error:
                events.emit(
                    "cache.failed", f"Lock {self._lock.name!r} not renewed: {error}", level=logging.WARNING
                )
            except LockError as error:
                if not stop.is_set():
                    events.emit("cache.lock_lost", str(error), level=logging.ERROR)
                return
