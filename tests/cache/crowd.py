"""Many real processes on one cache: `python -m tests.cache.crowd JOB COUNT ARGUMENTS OPTIONS`.

One interpreter sets Django up and forks COUNT workers, which start together. Each prints its result as a line
of JSON. Forking with the cache in use beforehand is what gunicorn --preload does.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django

from tests.children import fork_together, report
from tests.waiting import PATIENT


def incr(cache: Any, number: int, times: int) -> int:
    for _ in range(times):
        cache.incr("counter")
    return times


def add(cache: Any, number: int) -> bool:
    return cache.add("winner", number)


def write_few(cache: Any, number: int, times: int) -> int:
    for each in range(times):
        cache.set(f"{os.getpid()}:{each}", each)
    return times


def write_many(cache: Any, number: int, seconds: float) -> int:
    """set_many and delete_many of the same keys, every process in an order of its own."""
    keys = [f"key:{each}" for each in range(50)]
    rounds, stop_at = 0, time.monotonic() + seconds
    while time.monotonic() < stop_at:
        random.shuffle(keys)
        cache.set_many(dict.fromkeys(keys, number))
        random.shuffle(keys)
        cache.delete_many(keys[:25])
        cache.delete_tags("none")
        rounds += 1
    return rounds


def get_or_set(cache: Any, number: int, calls: str, seconds: float, lock_timeout: float = 60) -> Any:
    def compute() -> int:
        with Path(calls).open("a") as log:
            log.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        return 42

    return cache.get_or_set("slow", compute, 60, lock_timeout=lock_timeout)


def hold_lock(cache: Any, number: int, times: int) -> list[int]:
    """Count in two statements under the lock; whoever is not alone loses counts. Answers the tokens."""
    tokens = []
    for _ in range(times):
        with cache.lock("guard", timeout=20) as lock:
            cache.set("unsafe", cache.get("unsafe") + 1)
            tokens.append(lock.token)
    return tokens


def hold_lock_for_ever(cache: Any, number: int) -> None:
    cache.lock("guard", timeout=2).acquire()
    report(os.getpid())
    time.sleep(600)


def fill(cache: Any, number: int, seconds: float, size: int) -> int:
    written, stop_at = 0, time.monotonic() + seconds
    while time.monotonic() < stop_at:
        cache.set(f"{number}:{written}", os.urandom(size), 300)
        written += 1
    return written


def main() -> None:
    name, count, arguments, options = map(json.loads, sys.argv[1:])
    job: Callable[..., Any] = globals()[name]
    django.setup()
    from pgonly_django.cache import PostgresCache

    cache = PostgresCache("crowd", {"OPTIONS": PATIENT | options})
    cache.get("a connection that the parent has before it forks")

    def one(number: int, begin: Callable[[], None]) -> Any:
        begin()
        return job(cache, number, **arguments)

    fork_together(count, one)
    cache.set("the parent's connection", "is still its own")


if __name__ == "__main__":
    main()
