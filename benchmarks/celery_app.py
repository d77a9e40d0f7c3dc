"""Celery's side of `python -m benchmarks celery`: its app and its measurements, in an environment that has only Celery.

`python -m benchmarks.celery_app NAME [COUNT]` measures one thing and prints it as JSON. The settings are those of
Celery's documentation for a job that must not be lost with its worker; all others have their defaults.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
from celery import Celery

URL = os.environ["BENCH_REDIS_URL"]
VISIBILITY_TIMEOUT = float(os.environ["BENCH_VISIBILITY_TIMEOUT"])
RESTORED_WITHIN_SECONDS = 150  # after the timeout: a worker looks for such messages about every 100 s

app = Celery("benchmarks.celery_app", broker=URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    broker_transport_options={"visibility_timeout": VISIBILITY_TIMEOUT},
)
store = redis.Redis.from_url(URL)


@app.task
def nothing(number: int) -> None:
    """Does nothing, so only the queue is measured."""


@app.task
def tell_start(sent_at: float) -> None:
    """Notes the seconds from `sent_at` to now."""
    store.rpush("starts", time.monotonic() - sent_at)


@app.task
def last(seconds: float) -> None:
    """Notes when it starts, and takes `seconds`."""
    store.rpush("starts", time.monotonic())
    time.sleep(seconds)


def jobs(count: int) -> dict[str, float]:
    """How many a second are enqueued, and how many are done a second from the first enqueue to the last end."""
    with worker():
        began = time.monotonic()
        for number in range(count):
            nothing.delay(number)
        enqueued = time.monotonic()
        until(lambda: not store.llen("celery") and not store.hlen("unacked"))
        return {"enqueued": count / (enqueued - began), "done": count / (time.monotonic() - began)}


def pickup(count: int) -> list[float]:
    """Milliseconds from just before `delay()` to the first line of the task, on an idle worker."""
    with worker():
        for _ in range(count):
            time.sleep(random.uniform(0.005, 0.009))
            tell_start.delay(time.monotonic())
        until(lambda: store.llen("starts") == count)
        return [1000 * seconds for seconds in starts()]


def killed() -> float:
    """Seconds from the kill -9 of a worker with all its processes until another worker runs its job."""
    with worker() as first:
        last.delay(VISIBILITY_TIMEOUT + RESTORED_WITHIN_SECONDS)
        until(starts)
        os.killpg(first.pid, signal.SIGKILL)
        killed_at = time.monotonic()
    with worker(purge=False):
        until(lambda: len(starts()) == 2, VISIBILITY_TIMEOUT + RESTORED_WITHIN_SECONDS)
        return starts()[-1] - killed_at


def long(seconds: int) -> int:
    """How many runs of one job there are at a time, once it has run for so many seconds."""
    with worker():
        last.delay(2 * seconds)
        until(starts)
        time.sleep(seconds)
        return len(starts())


def starts() -> list[float]:
    return [float(each) for each in store.lrange("starts", 0, -1)]


@contextlib.contextmanager
def worker(*, purge: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """`celery worker` with its defaults: prefork, with a process for each processor."""
    if purge:
        store.flushall()
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "benchmarks.celery_app", "worker"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        until(lambda: app.control.ping(timeout=0.5))
        time.sleep(1)  # for what a worker does when it has just started
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def until(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Not after {seconds} s")
        time.sleep(0.01)


if __name__ == "__main__":
    measurements: dict[str, Callable[..., Any]] = {
        "jobs": jobs,
        "pickup": pickup,
        "killed": killed,
        "long": long,
    }
    print(json.dumps(measurements[sys.argv[1]](*map(int, sys.argv[2:]))))
