"""`with limiter("deepseek", tokens=900) as use: ...`, or `async with`."""

import os
import socket
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any
from weakref import ref

from pgonly_django.conf import LONGEST_SECONDS
from pgonly_django.current_job import current_job
from pgonly_django.database.operation import Operation, run
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import printable
from pgonly_django.events import emit
from pgonly_django.exceptions import NestedLimiterError, WrongArgumentsError
from pgonly_django.limits.admission import LimiterAdmission
from pgonly_django.limits.declarations import declare, no_such_limiter
from pgonly_django.limits.limiter_statements import COOL_DOWN
from pgonly_django.limits.pool_user import call, pool, refuse_event_loop, while_away
from pgonly_django.limits.renewal import renewal
from pgonly_django.models.limiter import WHO_LENGTH
from pgonly_django.provider_answers import seconds_of

PATIENCE_SECONDS = 5.0  # that a cool_down() waits while PostgreSQL is unavailable
Duration = float | timedelta  # seconds, or a timedelta

# The uses that this thread, or this task and the tasks that started it, is inside of.
_inside: ContextVar[tuple[ref[LimiterAdmission], ...]] = ContextVar(
    "pgonly_django_inside_limiters", default=()
)


def limiter(
    name: str, *, tokens: float = 0, requests: float = 1, timeout: Duration | None = None
) -> "NamedLimiter":
    """Returns the limiter of this name in PGONLY["LIMITERS"], for a use that takes about `tokens` and `requests`. Its
    block waits until all processes together are below the limits, in the order of arrival:

        with limiter("deepseek", tokens=900) as use:
            answer = ask(prompt)
            use.tokens = answer.usage.total_tokens

    `timeout`: seconds, or a timedelta, after which the block raises LimiterTimeoutError; 0 does not wait, and None
    waits without limit. In coroutines use `async with`. Raises WrongArgumentsError here, and UnknownLimiterError when
    the block is entered.
    """
    if not isinstance(name, str):
        raise WrongArgumentsError("limiter()", f"the name must be a str, got {name!r}")
    seconds = float("inf") if timeout is None else _in_seconds(timeout, "timeout")
    return NamedLimiter(name, _number(tokens, "tokens"), _number(requests, "requests"), seconds)


class StoppableLimiter:
    """Has the name of a limiter, and can stop all processes that use it."""

    __slots__ = ()
    name: str

    def cool_down(self, duration: Duration) -> None:
        """Lets no caller in for `duration`, which is seconds or a timedelta. Callers that are inside stay. Jobs of
        queues that are tied to the limiter are not claimed in that time."""
        run(cool_down(pool(), self.name, _in_seconds(duration, "The time to cool down")))

    async def acool_down(self, duration: Duration) -> None:
        """See cool_down()."""
        await pool().arun(cool_down(pool(), self.name, _in_seconds(duration, "The time to cool down")))

    def too_many_requests(self, answer: Any = None) -> float:
        """Cools down for as long as the provider asks with its 429. `answer`: the response, the error or the headers,
        with Retry-After; without that header it is 20 s. Returns the seconds."""
        seconds = seconds_of(answer)
        self.cool_down(seconds)
        return seconds

    async def atoo_many_requests(self, answer: Any = None) -> float:
        """See too_many_requests()."""
        seconds = seconds_of(answer)
        await self.acool_down(seconds)
        return seconds


class Use(StoppableLimiter):
    """One use of a limiter, from entering the block until leaving it."""

    # With a misspelt `use.token = 900` the reservation would count, without a word: it raises AttributeError.
    __slots__ = ("_requests", "_tokens", "admission", "name", "waited_seconds")

    def __init__(self, admission: LimiterAdmission) -> None:
        self.name, self.admission = admission.name, admission
        self.waited_seconds = 0.0
        self._tokens, self._requests = admission.tokens, admission.requests

    @property
    def tokens(self) -> float:
        """The number of tokens that the use takes. Set it to the number that it has really taken: when the block ends,
        that counts instead of the reservation. None, which some providers answer, keeps the reservation."""
        return self._tokens

    @tokens.setter
    def tokens(self, value: float | None) -> None:
        self._tokens = self.admission.tokens if value is None else _number(value, "use.tokens")

    @property
    def requests(self) -> float:
        """The number of requests that the use takes. Set it where a client library has repeated the request."""
        return self._requests

    @requests.setter
    def requests(self, value: float | None) -> None:
        self._requests = self.admission.requests if value is None else _number(value, "use.requests")


class NamedLimiter(StoppableLimiter):
    """See limiter(). One object may be used again, by many threads and asyncio tasks at once."""

    def __init__(self, name: str, tokens: float, requests: float, timeout: float) -> None:
        self.name, self._tokens, self._requests, self._timeout = name, tokens, requests, timeout
        self._uses: list[Use] = []

    def __enter__(self) -> Use:
        refuse_event_loop(f"limiter({self.name!r})")
        return run(self._enter())

    def __exit__(self, *_: object) -> None:
        run(self._leave())

    async def __aenter__(self) -> Use:
        return await pool().arun(self._enter())

    async def __aexit__(self, *_: object) -> None:
        await pool().arun(self._leave())

    def _enter(self) -> Operation[Use]:
        """Raises NestedLimiterError where this caller holds a slot of the same limiter."""
        use = Use(LimiterAdmission(pool(), self.name, self._requests, self._tokens, _who()))
        for each in _inside_of():
            if each.has_slot and (each.name, each.pool) == (self.name, use.admission.pool):
                raise NestedLimiterError(self.name)
        started = time.monotonic()
        try:
            yield from use.admission.enter(self._timeout)
            use.waited_seconds = time.monotonic() - started
            self._uses.append(use)
            if use.admission.has_slot:
                renewal.keep(use.admission)
            _inside.set((*_inside.get(), ref(use.admission)))
        except BaseException:
            renewal.drop(use.admission)
            with suppress(ValueError):
                self._uses.remove(use)
            use.admission.abandon()
            raise
        return use

    def _leave(self) -> Operation[None]:
        """Ends the last use of this thread or asyncio task."""
        mine = set(_inside_of())
        use = next((each for each in reversed(self._uses) if each.admission in mine), self._uses[-1])
        self._uses.remove(use)
        _inside.set(tuple(ref(each) for each in mine if each is not use.admission))
        renewal.drop(use.admission)
        if use.admission.pid == os.getpid():  # in a process that was forked inside, the slot is its parent's
            yield from use.admission.leave(use.requests, use.tokens)


def _inside_of() -> list[LimiterAdmission]:
    """Returns the admissions that this caller is inside of. A forked process has none: they are its parent's."""
    found = (each for kept in _inside.get() if (each := kept()) is not None)
    return [each for each in found if each.is_in and each.pid == os.getpid()]


def _who() -> str:
    """Names the caller for people: the job whose code runs here, or else the process and its thread."""
    if (run := current_job.get()) is not None:
        text = f"job {run.job.id} ({run.job.task})"
    else:
        text = f"{socket.gethostname()}, process {os.getpid()}, {threading.current_thread().name}"
    return printable(text)[:WHO_LENGTH]


def cool_down(pool: Pool, name: str, seconds: float) -> Operation[None]:
    """Lets no caller in for this number of seconds. Raises UnknownLimiterError and LimitsError."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS  # in jobs, too: it is only advice for the others
    yield from while_away(lambda: _cool_down(pool, name, seconds), PATIENCE_SECONDS, give_up_at)


def _cool_down(pool: Pool, name: str, seconds: float) -> Operation[None]:
    for again in (False, True):  # the row may have been deleted since it was declared
        yield from declare(pool, name, again=again)
        if (yield from call(pool, COOL_DOWN, name=name, seconds=seconds)).ntuples:
            message = f"Limiter {name!r} lets no caller in for {seconds:g} s."
            emit("limits.cooling_down", message, limiter=name, seconds=seconds)
            return
    raise (yield from no_such_limiter(pool, name))


def _in_seconds(duration: Any, what: str) -> float:
    """Returns seconds that are not below 0 and not longer than PostgreSQL's dates. Raises WrongArgumentsError for
    anything that is not a duration."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    return _number(seconds, what, "seconds or a timedelta, not below 0", LONGEST_SECONDS)


def _number(value: Any, what: str, kind: str = "a number, not below 0", most: float = 1e15) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not value >= 0:
        raise WrongArgumentsError("limiter()", f"{what} must be {kind}, got {value!r}")
    return float(min(value, most))
