"""Renews the leases of all that this process holds: slots of limiters, and reservations of budgets. One thread does so,
from the first use on. If its process is killed, or cannot renew for the length of a lease, the rows expire by
themselves. A process that ends as planned gives the slots back that its threads still hold. A holder that the garbage
collector takes is not renewed any more.
"""

import atexit
import contextlib
import logging
import os
import threading
import time
from collections import defaultdict
from typing import Protocol
from uuid import UUID
from weakref import WeakSet

from pgonly_django.database import testrun
from pgonly_django.database.operation import run
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import Statement
from pgonly_django.events import emit
from pgonly_django.exceptions import LimitsError, LimitsUnavailableError
from pgonly_django.limits.pool_user import call

LEASE_SECONDS = 30.0
EVERY_SECONDS = LEASE_SECONDS / 4
RETRY_SECONDS = 1.0
END_SECONDS = 2.0  # after which the end of a process begins to give back no other one


class Held(Protocol):
    """Something that is held by a row with a lease."""

    id: UUID
    pool: Pool
    # Has `%(ids)s::uuid[]` and `%(lease)s::float8` (seconds), and returns the ids of the rows that were renewed.
    RENEW: Statement

    def lost(self) -> None:
        """Called when its row belongs to another holder. Must not block."""

    def end(self) -> None:
        """Called when the process ends while a thread still holds it."""


class LeaseRenewal:
    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)  # what is held is the parent's

    def forget(self) -> None:
        self._held: WeakSet[Held] = WeakSet()
        # Reentrant: the garbage collector may call drop() in this thread while it holds the lock.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._is_failing = False

    def keep(self, held: Held) -> None:
        """Renews the lease of `held` from now on; not in a TestCase, whose transaction no other thread can use."""
        if testrun.is_on() and testrun.is_any_in_testcase(held.pool.alias):
            return
        with self._lock:
            self._held.add(held)
            if self._thread is None or not self._thread.is_alive():
                with contextlib.suppress(RuntimeError):  # the interpreter is ending and starts no threads
                    thread = threading.Thread(target=self._work, name="pgonly limits renewal", daemon=True)
                    thread.start()
                    self._thread = thread

    def drop(self, held: Held) -> None:
        """Stops the renewal of `held`: its row is given back, or about to be."""
        with self._lock:
            self._held.discard(held)

    def end(self) -> None:
        """Gives back what can be given back soon; the leases of the others end by themselves. Called when the process
        ends, whatever its threads still do."""
        give_up_at = time.monotonic() + END_SECONDS
        with self._lock:
            all_held = tuple(self._held)
        for held in all_held:
            self.drop(held)
            try:
                held.end()
            except LimitsUnavailableError:
                return  # so would the next ones be
            except Exception:  # noqa: BLE001, S110 - whatever is broken, the next ones may not be
                pass
            if time.monotonic() >= give_up_at:
                return

    def _work(self) -> None:
        while True:
            time.sleep(RETRY_SECONDS if self._is_failing else EVERY_SECONDS)
            if self._thread is not threading.current_thread():
                return  # after forget(), or where another thread has replaced it
            with contextlib.suppress(testrun.Refusal):  # a test that let a thread run on is over
                self.run_once()

    def run_once(self) -> None:
        kinds: dict[tuple[Pool, Statement], list[Held]] = defaultdict(list)
        with self._lock:
            all_held = tuple(self._held)
        for held in all_held:
            kinds[held.pool, held.RENEW].append(held)
        failed = False
        for (pool, statement), some in kinds.items():
            try:
                self._renew(pool, statement, some)
            except testrun.Refusal:
                raise
            except BaseException as error:  # noqa: BLE001 - else this process would renew no lease any more
                failed = True
                if not self._is_failing:
                    message = f"Leases not renewed, tried again: {error}"
                    is_odd = not isinstance(error, LimitsError)
                    emit("limits.not_renewed", message, level=logging.WARNING, exc_info=is_odd)
        self._is_failing = failed

    def _renew(self, pool: Pool, statement: Statement, some: list[Held]) -> None:
        ids = [held.id for held in some]
        result = run(call(pool, statement, ids=ids, lease=LEASE_SECONDS))
        renewed = {UUID(bytes=bytes(result.get_value(row, 0) or b"")) for row in range(result.ntuples)}
        for held in some:
            if held.id not in renewed and held in self._held:
                self.drop(held)
                held.lost()


renewal = LeaseRenewal()
atexit.register(renewal.end)  # after the threads that are not daemons have ended
