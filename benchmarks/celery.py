"""python -m benchmarks celery: this queue against Celery with Redis, in turns, each as its worker starts by default.

Celery gets an environment of its own, which this command makes with pip, and a redis-server that writes nothing to
disk. Its jobs are acknowledged late, as its documentation recommends for jobs that must survive their worker; else a
kill loses them. `--visibility-timeout 3600` is Celery's default, and `killed` then takes an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import servers
from benchmarks.measure import median, percentile, write_report
from benchmarks.queue.command import configure
from benchmarks.queue.report import Figure, print_table
from benchmarks.queue.workers import empty, first, wait_for, workers

PACKAGE = "celery[redis]==5.7.0"
ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
JOBS = 10_000
FLAGS = ("--grace-seconds", "1")  # how long a worker waits for its jobs at its own end, which is not measured
CLAIMS = "SELECT lease_epoch FROM pgonly_job"  # how often the one job was claimed


def main(argv: list[str]) -> int:
    arguments = _arguments(argv)
    figures: list[Figure] = []
    with servers.postgres() as url, servers.redis() as redis_url:
        if redis_url is None:
            print("This needs redis-server: apt-get install redis-server", file=sys.stderr)
            return 2
        with _celery(redis_url, arguments.visibility_timeout) as celery:
            configure(url)
            for name in arguments.only:
                made = PARTS[name](url, celery, arguments)
                print_table(name, made, against="Celery")
                figures += made
    write_report(arguments.json, {PACKAGE: [_as_json(each) for each in figures]})
    return 0


def _as_json(figure: Figure) -> dict[str, Any]:
    return {"name": figure.name, "unit": figure.unit, "pgonly": figure.ours, "celery": figure.floor}


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks celery", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(PARTS), help=",".join(PARTS)
    )
    parser.add_argument("--visibility-timeout", type=int, default=60, help="of Celery, in seconds (60)")
    return parser.parse_args(argv)


@contextlib.contextmanager
def _celery(redis_url: str, visibility_timeout: int) -> Iterator[Callable[..., Any]]:
    """A function that measures something on Celery's side: `celery("jobs", 10_000)`."""
    with tempfile.TemporaryDirectory(prefix="pgonly-bench-") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", PACKAGE], check=True)
        environment = {
            **os.environ,
            "BENCH_REDIS_URL": redis_url,
            "BENCH_VISIBILITY_TIMEOUT": str(visibility_timeout),
        }

        def celery(*arguments: Any) -> Any:
            command = [python, "-m", "benchmarks.celery_app", *map(str, arguments)]
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
            return json.loads(done.stdout)

        yield celery


def _jobs(url: str, celery: Callable[..., Any], _: argparse.Namespace) -> list[Figure]:
    """Enqueued while the worker runs, until the last one has ended. Celery has no call for many jobs."""
    turns = [(_our_jobs(url), celery("jobs", JOBS)) for _ in range(ROUNDS)]

    def figure(name: str, ours: str, theirs: str) -> Figure:
        sides = [ours_then[ours] for ours_then, _ in turns], [theirs_then[theirs] for _, theirs_then in turns]
        return Figure(name, "jobs/s", *map(median, sides))

    return [
        figure("enqueued one by one", "enqueued", "enqueued"),
        figure("one by one until all are done", "done", "done"),
        figure("enqueue_many until all are done", "done in bulk", "done"),
    ]


def _our_jobs(url: str) -> dict[str, float]:
    from benchmarks.queue.jobs import nothing
    from pgonly_django import enqueue_many

    with _our_worker(url) as (connection, _):
        began = time.monotonic()
        results = [nothing.enqueue(number) for number in range(JOBS)]
        enqueued = time.monotonic()
        _wait_until_done(connection, results[-1].id)
        done = time.monotonic()
    with _our_worker(url) as (connection, _):
        began_bulk = time.monotonic()
        _wait_until_done(connection, enqueue_many((nothing, (number,)) for number in range(JOBS))[-1].id)
        bulk = time.monotonic() - began_bulk
    return {
        "enqueued": JOBS / (enqueued - began),
        "done": JOBS / (done - began),
        "done in bulk": JOBS / bulk,
    }


def _wait_until_done(connection: psycopg.Connection[Any], last_id: Any) -> None:
    from benchmarks.queue.drain import IS_DONE, UNFINISHED

    wait_for(lambda: first(connection, IS_DONE, last_id), "the last job", pause=0.01)
    wait_for(lambda: not first(connection, UNFINISHED), "the jobs", pause=0.01)


def _pickup(url: str, celery: Callable[..., Any], _: argparse.Namespace) -> list[Figure]:
    from benchmarks.queue.pickup import WARM_UP, ours

    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        samples[0].extend(ours(url, 100))
        samples[1].extend(celery("pickup", 100 + WARM_UP)[WARM_UP:])
    return [Figure(f"p{at}", "ms", *(percentile(each, at) for each in samples)) for at in (50, 99)]


def _killed(url: str, celery: Callable[..., Any], _: argparse.Namespace) -> list[Figure]:
    return [Figure("the job runs again after", "s", _ours_killed(url), celery("killed"))]


def _ours_killed(url: str) -> float:
    from benchmarks.queue.jobs import last

    with _our_worker(url) as (connection, worker):
        last.enqueue(300)
        wait_for(lambda: first(connection, CLAIMS) == 1, "the claim")
        worker.kill()
        killed_at = time.monotonic()
        with workers(url, 1, *FLAGS):
            wait_for(lambda: first(connection, CLAIMS) == 2, "the rescue")
            return time.monotonic() - killed_at


def _long(url: str, celery: Callable[..., Any], arguments: argparse.Namespace) -> list[Figure]:
    from benchmarks.queue.jobs import last

    seconds = arguments.visibility_timeout + 150
    with _our_worker(url) as (connection, _):
        last.enqueue(2 * seconds)
        time.sleep(seconds)
        runs = first(connection, CLAIMS)
    return [Figure(f"of one job, after {seconds} s", "runs", runs, celery("long", seconds))]


@contextlib.contextmanager
def _our_worker(url: str) -> Iterator[tuple[psycopg.Connection[Any], subprocess.Popen[bytes]]]:
    """One `runworker` with its defaults, on empty tables."""
    with psycopg.connect(url, autocommit=True) as connection:
        empty(connection)
        with workers(url, 1, *FLAGS) as running:
            yield connection, running.processes[0]


PARTS = {"jobs": _jobs, "pickup": _pickup, "killed": _killed, "long": _long}
