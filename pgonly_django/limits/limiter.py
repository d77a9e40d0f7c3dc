"""`with limiter("deepseek", tokens=900) as use: ...`, or `async with`."""

import os
import time
from contextvars import ContextVar
from typing import Any
from weakref import ref

from pgonly_django.database.operation import Operation, run
from pgonly_django.exceptions import NestedLimiterError, WrongArgumentsError
from pgonly_django.limits.cool_down import Duration, cool_down, in_seconds, number
from pgonly_django.limits.pool_user import pool, refuse_event_loop
from pgonly_django.limits.renewal import renewal
from pgonly_django.limits.reservation import Reservation
from pgonly_django.limits.retry_after import seconds_of
from pgonly_django.limits.who import who

# What this thread, or this task and those that started it, is inside of.
_inside: ContextVar[tuple[ref[Reservation], ...]] = ContextVar("pgonly_django_inside_limiters", default=())


def limiter(
    name: str, *, tokens: float = 0, requests: float = 1, timeout: Duration | None = None
) -> "NamedLimiter":
    """The limiter of this name in PGONLY["LIMITERS"], for a use that takes about so many `tokens` and `requests`.

    `with limiter("deepseek", tokens=900) as use:` waits until all processes together are below the limits, in the
    order of arrival: for ever, or `timeout` seconds (0: not at all), and then raises LimiterTimeoutError.
    """
    if not isinstance(name, str):
        raise WrongArgumentsError("limiter()", f"the name must be a str, got {name!r}")
    seconds = float("inf") if timeout is None else in_seconds(timeout, "timeout")
    return NamedLimiter(name, number(tokens, "tokens"), number(requests, "requests"), seconds)


class CoolDown:
    """Stops all processes that use a limiter."""

    __slots__ = ()
    name: str

    def cool_down(self, duration: Duration) -> None:
        """Let no caller in for so long. Who is inside stays. Jobs of queues that are tied to it are not claimed."""
        run(self._cool_down(duration))

    async def acool_down(self, duration: Duration) -> None:
        """See cool_down()."""
        await pool().arun(self._cool_down(duration))

    def too_many_requests(self, answer: Any = None) -> float:
        """Cool down as the provider asks with its 429: `answer` is the response, the error or the headers, with
        Retry-After; without one 20 s. Returns the seconds."""
        seconds = seconds_of(answer)
        self.cool_down(seconds)
        return seconds

    async def atoo_many_requests(self, answer: Any = None) -> float:
        """See too_many_requests()."""
        seconds = seconds_of(answer)
        await self.acool_down(seconds)
        return seconds

    def _cool_down(self, duration: Duration) -> Operation[None]:
        return cool_down(pool(), self.name, in_seconds(duration, "The time to cool down"))


class Use(CoolDown):
    """One use of a limiter, from getting in until leaving."""

    # With a misspelt `use.token = 900` the reservation would count, without a word: it raises AttributeError.
    __slots__ = ("_requests", "_tokens", "name", "reservation", "waited_seconds")

    def __init__(self, reservation: Reservation) -> None:
        self.name, self.reservation = reservation.name, reservation
        self.waited_seconds = 0.0
        self._tokens, self._requests = reservation.tokens, reservation.requests

    @property
    def tokens(self) -> float:
        """What the use takes. Set it to what it has really taken: when it leaves, that counts instead of what was
        reserved. None, which some providers answer, keeps the reservation."""
        return self._tokens

    @tokens.setter
    def tokens(self, value: float | None) -> None:
        self._tokens = self.reservation.tokens if value is None else number(value, "use.tokens")

    @property
    def requests(self) -> float:
        """As tokens: set it where a client library has repeated the request by itself."""
        return self._requests

    @requests.setter
    def requests(self, value: float | None) -> None:
        self._requests = self.reservation.requests if value is None else number(value, "use.requests")


class NamedLimiter(CoolDown):
    """See limiter(). One object may be used again and again, by many threads and tasks at once."""

    def __init__(self, name: str, tokens: float, requests: float, timeout: float) -> None:
        self.name, self._tokens, self._requests, self._timeout = name, tokens, requests, timeout
        self._uses: list[Use] = []

    def __enter__(self) -> Use:
        refuse_event_loop(f"limiter({self.name!r})")
        use = self._new_use()
        started = time.monotonic()
        try:
            run(use.reservation.enter(self._timeout))
            self._keep(use, started)
        except BaseException:
            self._abandon(use)
            raise
        return use  # no call stands between: an interruption from another thread comes before, or inside of the block

    def __exit__(self, *_: object) -> None:
        if (use := self._take()) is not None:
            run(use.reservation.leave(use.requests, use.tokens))

    async def __aenter__(self) -> Use:
        use = self._new_use()
        started = time.monotonic()
        try:
            await use.reservation.pool.arun(use.reservation.enter(self._timeout))
            self._keep(use, started)
        except BaseException:
            self._abandon(use)
            raise
        return use

    async def __aexit__(self, *_: object) -> None:
        if (use := self._take()) is not None:
            await use.reservation.pool.arun(use.reservation.leave(use.requests, use.tokens))

    def _new_use(self) -> Use:
        """Raises NestedLimiterError where this caller holds a slot of the same limiter."""
        reservation = Reservation(pool(), self.name, self._requests, self._tokens, who())
        for each in _inside_of():
            if each.has_slot and (each.name, each.pool) == (self.name, reservation.pool):
                raise NestedLimiterError(self.name)
        return Use(reservation)

    def _keep(self, use: Use, started: float) -> None:
        use.waited_seconds = time.monotonic() - started
        self._uses.append(use)
        if use.reservation.has_slot:
            renewal.keep(use.reservation)
        _inside.set((*_inside.get(), ref(use.reservation)))

    def _abandon(self, use: Use) -> None:
        renewal.drop(use.reservation)
        if use in self._uses:
            self._uses.remove(use)
        use.reservation.abandon()

    def _take(self) -> Use | None:
        """The use that ends here: the last one of this thread or task. None in a process that was forked inside of it:
        the slot is its parent's."""
        mine = set(_inside_of())
        use = next((each for each in reversed(self._uses) if each.reservation in mine), self._uses[-1])
        self._uses.remove(use)
        _inside.set(tuple(ref(each) for each in mine if each is not use.reservation))
        renewal.drop(use.reservation)
        return use if use.reservation.pid == os.getpid() else None


def _inside_of() -> list[Reservation]:
    """A forked process is inside of nothing: the slots are its parent's."""
    found = (each for kept in _inside.get() if (each := kept()) is not None)
    return [each for each in found if each.is_in and each.pid == os.getpid()]
