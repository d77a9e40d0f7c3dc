"""The one way for tests to wait: for a condition, with a deadline; and for what runs beside them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

from django.db import connection, connections

T = TypeVar("T")
# OPTIONS of a cache whose test is not about time: a busy machine may take longer than the second of the default.
PATIENT = {"TIMEOUT_SECONDS": 20}


def wait_for(condition: Callable[[], T], seconds: float = 30.0, what: str = "the condition") -> T:
    """The first true value of `condition()`. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def cancel_once(condition: Callable[[], object], coroutine: Coroutine[Any, Any, object]) -> None:
    """Runs the coroutine, and cancels it once the condition is true."""

    def look() -> None:
        with closing(connection):
            wait_for(condition)

    async def main() -> None:
        task = asyncio.create_task(coroutine)
        await asyncio.to_thread(look)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())


@contextmanager
def beside(function: Callable[..., T], *arguments: Any) -> Iterator[list[T | Exception]]:
    """Calls the function in a thread of its own, and waits in the end of the block until it has ended. The list has
    what it returned, or the exception that it raised."""
    outcomes: list[T | Exception] = []

    def call() -> None:
        try:
            outcomes.append(function(*arguments))
        except Exception as error:
            outcomes.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield outcomes
    finally:
        thread.join(60)
    assert not thread.is_alive()
