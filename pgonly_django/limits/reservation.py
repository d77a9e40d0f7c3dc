"""One caller's way through a limiter: in, in the order of arrival, and out.

Who does not get in at once takes a ticket in pgonly_limiter_waiter and waits without a connection: for a NOTIFY, for
the moment when the buckets have enough, and never longer than a second. Who gets in, or leaves, wakes the next.
"""

import logging
import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from pgonly_django.current_job import current_job
from pgonly_django.database import testrun
from pgonly_django.database.connect import TRY_AGAIN
from pgonly_django.database.listener import Watch, listener_for
from pgonly_django.database.operation import Operation, Signal
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import Statement
from pgonly_django.events import emit
from pgonly_django.exceptions import (
    LimiterTimeoutError,
    LimitsError,
    LimitsUnansweredError,
    LimitsUnavailableError,
)
from pgonly_django.limits import slots
from pgonly_django.limits.admission import Look, look
from pgonly_django.limits.declarations import declare, raise_unknown
from pgonly_django.limits.departure import leave, leave_later, take_back
from pgonly_django.limits.renewal import LEASE_SECONDS
from pgonly_django.limits.wake import CHANNEL
from pgonly_django.tables import qualified

PATIENCE_SECONDS = 60.0  # that a caller waits for a database that is away
RETRY_SECONDS = 0.5
FAR_LOOK_SECONDS = 5.0  # where many are before it; see FAR in admission.py


def raise_if_interrupted() -> None:
    """Raise the interruption of a job whose run has to end."""
    if (job := current_job.get()) is not None:
        job.raise_if_interrupted()


@dataclass(eq=False, slots=True, weakref_slot=True)
class Reservation:
    """As a waiter and as the holder of a slot it has the same `id`."""

    pool: Pool
    name: str
    requests: float
    tokens: float
    who: str
    id: UUID = field(default_factory=uuid4)
    pid: int = field(default_factory=os.getpid)
    is_in: bool = False
    has_slot: bool = False
    _has_ticket: bool = False
    _is_unanswered: bool = False  # PostgreSQL was asked to let it in, and may do so still

    def enter(self, timeout: float) -> Operation[None]:
        """Wait until the limiter lets this caller in, `timeout` seconds at most.

        Raises LimiterTimeoutError, UnknownLimiterError, outside of jobs LimitsUnavailableError when PostgreSQL has been
        away for PATIENCE_SECONDS, and in jobs the interruption of a run that has to end.
        """
        give_up_at = time.monotonic() + timeout
        may_wait = timeout > 0
        found = yield from self._look(give_up_at, may_wait=may_wait)
        if found.is_in:
            return
        with closing(listener_for(self.pool.alias, CHANNEL).watch(str(self.id).encode())) as watch:
            # Who left just before this caller had its ticket has not woken it: so it looks again, and then waits.
            # With many before it, those look.
            if found.is_far:
                yield from self._wait(watch, found, max(give_up_at - time.monotonic(), 0))
            while not (found := (yield from self._look(give_up_at, may_wait=may_wait))).is_in:
                remaining = give_up_at - time.monotonic()
                if remaining <= 0:
                    raise LimiterTimeoutError(self.name, timeout)
                yield from self._wait(watch, found, remaining)

    def _wait(self, watch: Watch, found: Look, at_most: float) -> Operation[None]:
        """Until it is told, or until it is time to look anyway."""
        if not found.is_far:
            yield watch.next(min(at_most, found.wait_seconds or at_most))
            return
        look_at = time.monotonic() + min(FAR_LOOK_SECONDS, at_most)
        while (remaining := look_at - time.monotonic()) > 0:
            if (yield watch.next(remaining)):
                return
            raise_if_interrupted()

    def _look(self, give_up_at: float, *, may_wait: bool) -> Operation[Look]:
        """Try to get in. While PostgreSQL is away it tries again; its ticket stays its own. In a job that goes on until
        the run has to end, as with all that a job writes."""
        is_bounded = current_job.get() is None
        patience_ends_at = min(time.monotonic() + PATIENCE_SECONDS, give_up_at) if is_bounded else give_up_at
        while True:
            raise_if_interrupted()
            try:
                found = yield from self._try(may_wait)
            except LimitsError as error:
                is_passing = isinstance(error, LimitsUnavailableError) or isinstance(
                    error.__cause__, TRY_AGAIN
                )
                if not is_passing or time.monotonic() >= patience_ends_at:
                    raise
                yield Signal(RETRY_SECONDS)
            else:
                if found.is_in or not found.lacks_slots:
                    return found
                yield from slots.add(self.pool, self.name)

    def _try(self, may_wait: bool) -> Operation[Look]:
        yield from declare(self.pool, self.name)
        found = yield from self._ask(may_wait)
        if found is None:  # a test has rolled the row back, or a person has deleted it
            yield from declare(self.pool, self.name, again=True)
            found = yield from self._ask(may_wait)
        if found is None:
            yield from raise_unknown(self.pool, self.name)
            raise AssertionError
        self.is_in, self.has_slot = found.is_in, found.has_slot
        self._has_ticket = may_wait and not found.is_in
        return found

    def _ask(self, may_wait: bool) -> Operation[Look | None]:
        was_unanswered, self._is_unanswered = self._is_unanswered, True
        try:
            found = yield from look(
                self.pool,
                {
                    "id": self.id, "name": self.name, "who": self.who, "lease": LEASE_SECONDS,
                    "requests": self.requests, "tokens": self.tokens, "may_wait": int(may_wait),
                },
            )  # fmt: skip
        except LimitsUnansweredError:
            raise
        except (LimitsError, testrun.Refusal):  # not sent, or refused
            self._is_unanswered = was_unanswered
            raise
        self._is_unanswered = False
        return found

    def abandon(self) -> None:
        """It gave up on the way in: what it may hold is given back in the background, with all that it reserved."""
        if self._is_unanswered:
            take_back(self.pool, self.id, self.name, self.requests, self.tokens)
        elif self.is_in or self._has_ticket:
            back = (-self.requests, -self.tokens) if self.is_in else (0.0, 0.0)
            leave_later(self.pool, self.id, self.name, self.has_slot, *back)
        self.is_in = self._has_ticket = self._is_unanswered = False

    def leave(self, requests: float, tokens: float) -> Operation[None]:
        """Give back the slot, after a use that took so much. Raises no LimitsError: the work is done. While PostgreSQL
        is away it is tried again until the lease is over."""
        more = requests - self.requests, tokens - self.tokens
        try:
            yield from leave(self.pool, self.id, self.name, self.has_slot, *more)
        except BaseException as error:
            if self.has_slot or not isinstance(error, LimitsUnansweredError):
                leave_later(self.pool, self.id, self.name, self.has_slot, *more)
            self.is_in = False
            if not isinstance(error, LimitsError):
                raise
            message = f"Limiter {self.name!r} is left later, since PostgreSQL did not answer: {error}"
            emit("limits.left_late", message, level=logging.WARNING, limiter=self.name)
        self.is_in = False

    def lost(self) -> None:
        message = f"A slot of limiter {self.name!r} was given to another: it was not renewed for {LEASE_SECONDS:g} s."
        emit("limits.slot_lost", message, level=logging.WARNING, limiter=self.name)

    def __del__(self) -> None:
        """An exception from another thread came between two lines, and the slot was not given back."""
        if self.is_in and self.pid == os.getpid() and not sys.is_finalizing():
            leave_later(self.pool, self.id, self.name, self.has_slot)

    # Index: pgonly_limiter_slot_holder.
    RENEW = Statement(
        qualified("""UPDATE pgonly_limiter_slot
        SET expires_at = clock_timestamp() + %(lease)s::float8 * interval '1 second'
        WHERE holder = ANY(%(ids)s::uuid[]) RETURNING holder""")
    )
