"""One caller's way into a limiter, in the order of arrival, and out of it.

A caller that does not get in at once takes a ticket in pgonly_limiter_waiter and waits without a connection: for a
NOTIFY, for the moment when the buckets have enough, and never longer than a second. A caller that gets in, or leaves,
wakes the next one.
"""

import atexit
import contextlib
import logging
import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from pgonly_django.current_job import current_job
from pgonly_django.database.listener import Watch, listener_for
from pgonly_django.database.operation import Operation, run
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import integer
from pgonly_django.events import emit
from pgonly_django.exceptions import LimiterTimeoutError, LimitsError, LimitsUnansweredError
from pgonly_django.limits.declarations import declare, no_such_limiter
from pgonly_django.limits.limiter_statements import (
    ADD_SLOTS,
    CHANNEL,
    ENTER,
    LEAVE,
    LEAVE_QUEUES,
    RENEW_SLOTS,
    WAKE,
)
from pgonly_django.limits.pool_user import LIMITS, background, call, while_away
from pgonly_django.limits.renewal import LEASE_SECONDS

PATIENCE_SECONDS = 60.0  # that a caller waits while the database is unavailable
FAR_LOOK_SECONDS = 5.0  # where many are before it; see FAR in limiter_statements.py
_TRUE = b"\x01"

# By the ids of the callers of this process whose ticket is not given back: the connections to its database.
_tickets: dict[UUID, Pool] = {}
os.register_at_fork(after_in_child=_tickets.clear)  # those are the parent's


def raise_if_interrupted() -> None:
    """Raises the interruption of a job whose run has to end."""
    if (job := current_job.get()) is not None:
        job.raise_if_interrupted()


@dataclass(frozen=True, slots=True)
class EnterAnswer:
    """PostgreSQL's answer to a caller that wants to get in."""

    is_in: bool
    has_slot: bool  # the limiter has a limit of `concurrent`
    lacks_slots: bool  # and fewer rows than that
    wait_seconds: float | None  # until there is something to get; None: until a caller leaves
    is_far: bool  # many are before it


@dataclass(eq=False, slots=True, weakref_slot=True)
class LimiterAdmission:
    """A caller's admission. As a waiter and as the holder of a slot it has the same `id`."""

    RENEW = RENEW_SLOTS

    pool: Pool
    name: str
    requests: float
    tokens: float
    who: str
    id: UUID = field(default_factory=uuid4)
    pid: int = field(default_factory=os.getpid)
    is_in: bool = False
    has_slot: bool = False
    _is_unanswered: bool = False  # PostgreSQL was asked to let it in, and may do so still

    def enter(self, timeout: float) -> Operation[None]:
        """Waits until the limiter lets this caller in, `timeout` seconds at most.

        Raises LimiterTimeoutError, UnknownLimiterError, outside of jobs LimitsUnavailableError when PostgreSQL has been
        unavailable for PATIENCE_SECONDS, and in jobs the interruption of a run that has to end.
        """
        give_up_at = time.monotonic() + timeout
        may_wait = timeout > 0
        found = yield from self._look(give_up_at, may_wait=may_wait)
        if found.is_in:
            return
        with closing(listener_for(self.pool.alias, CHANNEL).watch(str(self.id).encode())) as watch:
            # A caller that left just before this one had its ticket has not woken it: so it looks again, and then
            # waits. Callers before it look, if they are many.
            if found.is_far:
                yield from self._wait(watch, found, max(give_up_at - time.monotonic(), 0))
            while not (found := (yield from self._look(give_up_at, may_wait=may_wait))).is_in:
                remaining = give_up_at - time.monotonic()
                if remaining <= 0:
                    raise LimiterTimeoutError(self.name, timeout)
                yield from self._wait(watch, found, remaining)

    def _wait(self, watch: Watch, found: EnterAnswer, at_most: float) -> Operation[None]:
        """Waits until a NOTIFY comes, or until it is time to look anyway."""
        if not found.is_far:
            yield watch.next(min(at_most, found.wait_seconds or at_most))
            return
        look_at = time.monotonic() + min(FAR_LOOK_SECONDS, at_most)
        while (remaining := look_at - time.monotonic()) > 0:
            if (yield watch.next(remaining)):
                return
            raise_if_interrupted()

    def _look(self, give_up_at: float, *, may_wait: bool) -> Operation[EnterAnswer]:
        """Tries to get in. While PostgreSQL is unavailable it tries again; it keeps its ticket."""
        while True:
            found = yield from while_away(lambda: self._try(may_wait), PATIENCE_SECONDS, give_up_at)
            if found.is_in or not found.lacks_slots:
                return found
            yield from call(self.pool, ADD_SLOTS, name=self.name)

    def _try(self, may_wait: bool) -> Operation[EnterAnswer]:
        for again in (False, True):  # a test has rolled the row back, or a person has deleted it
            yield from declare(self.pool, self.name, again=again)
            if (found := (yield from self._ask(may_wait))) is not None:
                self.is_in, self.has_slot = found.is_in, found.has_slot
                if found.is_in:
                    _tickets.pop(self.id, None)
                elif may_wait:
                    _tickets[self.id] = self.pool
                return found
        raise (yield from no_such_limiter(self.pool, self.name))

    def _ask(self, may_wait: bool) -> Operation[EnterAnswer | None]:
        """Returns None when there is no such limiter."""
        row = {"id": self.id, "name": self.name, "who": self.who, "lease": LEASE_SECONDS}
        amounts = {"requests": self.requests, "tokens": self.tokens}
        try:
            result = yield from call(self.pool, ENTER, **row, **amounts, may_wait=int(may_wait))
        except BaseException as error:
            self._is_unanswered = self._is_unanswered or LIMITS.may_be_done(error)
            raise
        self._is_unanswered = False
        if not result.ntuples:
            return None
        is_in, has_slot, lacks_slots, is_far = (
            result.get_value(0, column) == _TRUE for column in (0, 1, 2, 4)
        )
        milliseconds = result.get_value(0, 3)
        wait_seconds = integer(milliseconds) / 1000 if milliseconds is not None else 0.0
        return EnterAnswer(is_in, has_slot, lacks_slots, wait_seconds or None, is_far)

    def abandon(self) -> None:
        """Called when the caller gave up on the way in: all it may hold is given back in the background. In a process
        that was forked in between, the parent does so."""
        if self.pid != os.getpid():
            return
        leaving = self.pool, self.id, self.name
        if self._is_unanswered:
            # The slot may still be taken, also by a caller that has its ticket already. The whole reservation is put
            # back together with a slot.
            back = -self.requests, -self.tokens
            background.undo(lambda: run(give_back(*leaving, True, *back)))
        elif self.is_in or self.id in _tickets:
            back = (-self.requests, -self.tokens) if self.is_in else (0.0, 0.0)
            give_back_later(*leaving, self.has_slot, *back)
        self.is_in = self._is_unanswered = False

    def leave(self, requests: float, tokens: float) -> Operation[None]:
        """Gives back the slot, after a use that took `requests` and `tokens`. Raises no LimitsError: the work is done.
        While PostgreSQL is unavailable, this is tried again until the lease has ended."""
        leaving = self.pool, self.id, self.name, self.has_slot, requests - self.requests, tokens - self.tokens
        try:
            yield from give_back(*leaving)
        except BaseException as error:
            if self.has_slot or not isinstance(error, LimitsUnansweredError):
                give_back_later(*leaving)
            if not isinstance(error, LimitsError):
                raise
            message = f"Limiter {self.name!r} is left later, since PostgreSQL did not answer: {error}"
            emit("limits.left_late", message, level=logging.WARNING, limiter=self.name)
        finally:
            self.is_in = False

    def lost(self) -> None:
        message = f"A slot of limiter {self.name!r} was given to another: it was not renewed for {LEASE_SECONDS:g} s."
        emit("limits.slot_lost", message, level=logging.WARNING, limiter=self.name)

    def end(self) -> None:
        run(give_back(self.pool, self.id, self.name, self.has_slot, 0.0, 0.0))

    def __del__(self) -> None:
        """Gives the slot back where an exception from another thread came between two lines."""
        if self.is_in and self.pid == os.getpid() and not sys.is_finalizing():
            give_back_later(self.pool, self.id, self.name, self.has_slot, 0.0, 0.0)


def give_back(
    pool: Pool, holder: UUID, name: str, has_slot: bool, requests: float, tokens: float
) -> Operation[bool]:
    """Gives back the slot or the ticket, and draws what was used beyond the reservation (below zero: puts it back).
    Returns whether there was a slot. Raises LimitsError."""
    row = {"id": holder, "name": name, "has_slot": int(has_slot)}
    result = yield from call(pool, LEAVE, **row, requests=requests, tokens=tokens)
    _tickets.pop(holder, None)
    if (told := result.get_value(0, 1)) is not None:
        with contextlib.suppress(LimitsError):  # the next one looks by itself within a second
            yield from call(pool, WAKE, id=holder, name=name, told=UUID(bytes=bytes(told)))
    return integer(result.get_value(0, 0)) > 0


def give_back_later(
    pool: Pool, holder: UUID, name: str, has_slot: bool, requests: float, tokens: float
) -> None:
    """Calls give_back() in the background, again and again until the lease has ended: then the slot is free anyway."""
    background.add(lambda: run(give_back(pool, holder, name, has_slot, requests, tokens)), LEASE_SECONDS)


def leave_queues() -> None:
    """Gives back the tickets of all callers that still wait, or have just given up, and wakes the callers that are next
    without them. Called when the process ends, whatever its threads still do."""
    tickets = dict(_tickets)
    for pool in set(tickets.values()):
        with contextlib.suppress(Exception):  # whatever is broken, the next database may not be
            run(call(pool, LEAVE_QUEUES, ids=[each for each in tickets if tickets[each] is pool]))


atexit.register(leave_queues)
