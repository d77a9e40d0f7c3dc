"""Many real processes at limiters: `python -m tests.limits.crowd JOB COUNT ARGUMENTS LIMITERS POOL_SIZE`.

One interpreter sets Django up and forks COUNT processes, which start together. Each prints its result as a line of
JSON. The parent has used a limiter before it forks, as with gunicorn --preload.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import django
from django.conf import settings

from tests.children import fork_together, report

ENTER = "UPDATE tests_inside SET n = n + 1, most = greatest(most, n + 1), uses = uses + 1"
LEAVE = "UPDATE tests_inside SET n = n - 1"


def use(number: int, users: int, seconds: float, hold: float) -> dict[str, float]:
    """`users` threads use the limiter for so long, and count in the database how many are inside."""
    from pgonly_django import limiter

    counter, lock = connected(), threading.Lock()
    busy: list[float] = []
    stop_at = time.monotonic() + seconds

    def work() -> None:
        while time.monotonic() < stop_at:
            with limiter("deepseek"):
                started = time.monotonic()
                with lock:
                    counter.execute(ENTER)
                time.sleep(max(min(hold, stop_at - started), 0))
                with lock:
                    counter.execute(LEAVE)
                busy.append(max(min(time.monotonic(), stop_at) - started, 0))

    together(users, work)
    return {"uses": len(busy), "busy": sum(busy)}


def take_tokens(number: int, users: int, seconds: float, tokens: float) -> list[float]:
    """When (time.time()) each use got in."""
    from pgonly_django import limiter

    times: list[float] = []
    stop_at = time.monotonic() + seconds

    def work() -> None:
        while time.monotonic() < stop_at:
            with limiter("deepseek", tokens=tokens):
                times.append(time.time())

    together(users, work)
    return times


def spend(number: int, seconds: float) -> dict[str, int]:
    """Every call reserves, takes a moment, and is settled, given back or left."""
    from pgonly_django import budget
    from pgonly_django.exceptions import BudgetExceededError

    report(os.getpid())
    random.seed(number)
    counts = {"made": 0, "refused": 0}
    stop_at = time.monotonic() + seconds
    while time.monotonic() < stop_at:
        reserved = round(random.uniform(0.001, 0.05), random.randint(3, 6))
        try:
            with suppress(KeyError), budget("shared", "1.00").reserve(reserved) as reservation:
                time.sleep(random.uniform(0, 0.02))
                what = random.random()
                if what < 0.5:
                    reservation.settle(random.uniform(0, reserved / 20))
                elif what < 0.95:
                    reservation.release()
                elif what < 0.97:
                    raise KeyError
            counts["made"] += 1
        except BudgetExceededError:
            counts["refused"] += 1
            time.sleep(random.uniform(0, 0.01))
    return counts


def wait_for_ever(number: int) -> None:
    from pgonly_django import limiter

    report(os.getpid())
    with limiter("deepseek"):
        time.sleep(600)


def together(count: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def connected() -> Any:
    from pgonly_django.database.connect import connect

    return connect("default", application_name="pgonly tests")


def main() -> None:
    name, count, arguments, limiters, pool_size = map(json.loads, sys.argv[1:])
    job: Callable[..., Any] = globals()[name]
    django.setup()
    settings.PGONLY = {**settings.PGONLY, "LIMITERS": limiters, "LIMITS_POOL_SIZE": pool_size}
    from pgonly_django import limiter

    def one(number: int, begin: Callable[[], None]) -> Any:
        begin()
        return job(number, **arguments)

    with limiter("parent"):
        fork_together(count, one)


if __name__ == "__main__":
    main()
