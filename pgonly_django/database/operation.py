"""Runs operations: generators that yield what they wait for, such as a socket, another thread, the caller's function.

`run` blocks the thread at each wait, `arun` awaits it. So one text serves the sync and the async API.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Awaitable, Callable, Generator
from concurrent import futures
from inspect import isawaitable
from typing import Any, Protocol, TypeVar

from asgiref.sync import async_to_sync, sync_to_async

T = TypeVar("T")
READ, WRITE = 1, 4  # POLLIN and POLLOUT, the same everywhere


class Awaited(Protocol):
    """Something that an operation waits for. Both methods return the same answer."""

    def block(self) -> Any: ...
    async def ready(self) -> Any: ...


Operation = Generator[Awaited, Any, T]


def run(operation: Operation[T]) -> T:
    """Returns the operation's result. This thread is blocked at each wait."""
    step: Callable[[Any], Awaited] = operation.send
    value: Any = None
    while True:
        try:
            wait = step(value)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # typeshed has Any there
        try:
            value, step = wait.block(), operation.send
        except BaseException as error:  # noqa: BLE001 - handed to the operation, which cleans up and raises it
            value, step = error, operation.throw


async def arun(operation: Operation[T]) -> T:
    """See run()."""
    step: Callable[[Any], Awaited] = operation.send
    value: Any = None
    while True:
        try:
            wait = step(value)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # typeshed has Any there
        try:
            value, step = await wait.ready(), operation.send
        except BaseException as error:  # noqa: BLE001 - a cancellation too is the operation's to clean up after
            value, step = error, operation.throw


class Compute:
    """The wait for the caller's function, sync or async. The answer is what it returns."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def block(self) -> Any:
        value = self._function()
        return async_to_sync(_awaited)(value) if isawaitable(value) else value

    async def ready(self) -> Any:
        value = self._function()
        return await value if isawaitable(value) else value


async def _awaited(value: Awaitable[T]) -> T:
    return await value


class InThread:
    """The wait for a sync function. Under asyncio it runs where Django runs sync code."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def block(self) -> Any:
        return self._function()

    async def ready(self) -> Any:
        return await sync_to_async(self._function)()


class Signal:
    """The wait for set() by another thread, for `seconds` at most. The answer is what was set, or None."""

    def __init__(self, seconds: float) -> None:
        self._future: futures.Future[Any] = futures.Future()
        self._seconds = seconds

    def set(self, answer: Any = True) -> bool:
        """Sets the answer. Returns False when the waiter has given up, or has an answer already."""
        try:
            self._future.set_result(answer)  # in one step: of several who set it, one succeeds
        except futures.InvalidStateError:
            return False
        return True

    def withdraw(self) -> Any:
        """Stops waiting. Returns the answer, if one came at the last moment; else None."""
        return None if self._future.cancel() else self._future.result()

    def block(self) -> Any:
        # Not result(), whose TimeoutError could as well be one that a signal handler raises.
        futures.wait((self._future,), self._seconds)
        return self.withdraw()

    async def ready(self) -> Any:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        self._future.add_done_callback(lambda _: _tell(loop, arrived))
        try:
            # Up to Python 3.11, wait_for() may lose a cancellation.
            async with asyncio.timeout(self._seconds):
                await arrived.wait()
        except TimeoutError:
            return self.withdraw()
        return self._future.result()


def _tell(loop: asyncio.AbstractEventLoop, arrived: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed, and with it the one who waited
        loop.call_soon_threadsafe(arrived.set)


class Poll(Protocol):
    def register(self, descriptor: int, events: int, /) -> None: ...
    def poll(self, milliseconds: float | None = None, /) -> list[tuple[int, int]]: ...


def new_poll() -> Poll:
    """Waits for one socket, with poll() where Python has it: eventlet removes it, and Windows has none."""
    # Looked up at each call: eventlet may be imported after this module.
    kind: type[Poll] = getattr(select, "poll", PollBySelect)
    return kind()


class PollBySelect:
    """select() of one socket with the interface of poll(); under eventlet other green threads run during the wait."""

    def register(self, descriptor: int, events: int, /) -> None:
        self._descriptor, self._events = descriptor, events

    def poll(self, milliseconds: float | None = None, /) -> list[tuple[int, int]]:
        """Returns the socket and what it is ready for; nothing when the time is over."""
        seconds = None if milliseconds is None else milliseconds / 1000
        reads, writes = ([self._descriptor] if self._events & event else [] for event in (READ, WRITE))
        readable, writable, _ = select.select(reads, writes, [], seconds)
        ready = READ * bool(readable) | WRITE * bool(writable)
        return [(self._descriptor, ready)] if ready else []
