"""python -m benchmarks scale: how much one small PostgreSQL serves, and what deleting expired entries costs the others.

Three questions that decide whether a site needs Redis: how many reads a second there are, what a read of the cache adds
to a page, and whether a cleaning blocks those who read and write meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import servers
from benchmarks.cache import configure
from benchmarks.measure import percentile, write_report

ROOT = Path(__file__).resolve().parents[1]
PAGE_MS = 200.0  # of the user's own design: what an answer of a site takes in all
EXPIRED = """
INSERT INTO pgonly_cache (key, value, codec, expires_at, prune_minute)
SELECT 'bench::1:expired:' || n, decode(repeat('ab', 50), 'hex'), 1, now() - interval '1 hour', 0
FROM generate_series(1, %s) AS n
"""
KEYS = 1000
BATCH = 1000  # rows, as the worker's cleaning deletes them


def main(argv: list[str]) -> int:
    arguments = _arguments(argv)
    with servers.postgres() as url, servers.redis() as redis_url:
        configure(url, redis_url)
        os.environ |= {"SCALE_DATABASE": url, "SCALE_REDIS": redis_url or ""}
        _fill(arguments.expired)
        figures = {
            "reads": _reads(arguments),
            "cleaning": _cleaning(arguments),
        }
    write_report(arguments.json, figures)
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (5)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender (3)")
    parser.add_argument("--processes", type=int, default=4, help="that read at a time (4)")
    parser.add_argument("--expired", type=int, default=200_000, help="entries that are deleted (200,000)")
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    return parser.parse_args(argv)


def _fill(expired: int) -> None:
    from django.core.cache import caches
    from django.db import connection

    for name in _contenders():
        caches[name].set_many({f"key{n}": "x" * 100 for n in range(KEYS)}, None)
    with connection.cursor() as cursor:
        cursor.execute(EXPIRED, [expired])
        cursor.execute("ANALYZE pgonly_cache")


def _contenders() -> list[str]:
    from django.conf import settings

    return [name for name in ("pgonly", "RedisCache", "django-redis") if name in settings.CACHES]


def _reads(arguments: argparse.Namespace) -> dict[str, Any]:
    """`get` of a key that is there, one process and several, in turns."""
    found: dict[str, Any] = {}
    for processes in (1, arguments.processes):
        rounds: dict[str, list[dict[str, float]]] = {}
        for _ in range(arguments.rounds):
            for name in _contenders():
                rounds.setdefault(name, []).append(_together(name, processes, arguments.seconds))
        for name, measured in rounds.items():
            each = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
            found[f"{name}, {processes}"] = each
            print(
                f"get, {processes} processes, {name:13} {each['rate']:>9,.0f}/s   p50 {each['p50']:.3f} ms"
                f"   p99 {each['p99']:.3f} ms   p50 of a page of {PAGE_MS:g} ms: {each['p50'] / PAGE_MS:.2%}"
            )
    return found


def _together(name: str, processes: int, seconds: float) -> dict[str, float]:
    readers = [_start("get", name, seconds) for _ in range(processes)]
    parts = [json.loads(reader.communicate()[0]) for reader in readers]
    return {
        "rate": sum(part["calls"] for part in parts) / seconds,
        "p50": statistics.median(part["p50"] for part in parts),
        "p99": max(part["p99"] for part in parts),
    }


def _cleaning(arguments: argparse.Namespace) -> dict[str, Any]:
    """A reader and a writer of the same table: alone, and while the expired entries are deleted."""
    alone = _reader_and_writer(arguments.seconds)
    with _cleaner() as batches:
        beside = _reader_and_writer(arguments.seconds)
    milliseconds = batches()
    figures = {
        "alone": alone,
        "beside": beside,
        "batches": len(milliseconds),
        "p50": percentile(milliseconds, 50),
        "p99": percentile(milliseconds, 99),
    }
    print(
        f"deleting {BATCH:,} expired entries: p50 {figures['p50']:.1f} ms, p99 {figures['p99']:.1f} ms"
        f" ({figures['batches']} times, one after the other)"
    )
    for what in ("get", "set"):
        print(
            f"{what} alone: p50 {alone[what]['p50']:.3f} ms, longest {alone[what]['longest']:.1f} ms;"
            f" beside the deletion: p50 {beside[what]['p50']:.3f} ms, longest {beside[what]['longest']:.1f} ms"
        )
    return figures


def _reader_and_writer(seconds: float) -> dict[str, dict[str, float]]:
    running = {what: _start(what, "pgonly", seconds) for what in ("get", "set")}
    return {what: json.loads(process.communicate()[0]) for what, process in running.items()}


@contextmanager
def _cleaner() -> Iterator[Callable[[], list[float]]]:
    """Deletes until nothing is left. What is yielded returns the milliseconds of each batch."""
    process = _start("clean", "pgonly", 0)
    done: list[float] = []
    yield lambda: done
    done.extend(json.loads(process.communicate()[0]))


def _start(what: str, name: str, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.scale", what, name, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)


def _one_process(what: str, name: str, seconds: float) -> Any:
    configure(os.environ["SCALE_DATABASE"], os.environ["SCALE_REDIS"] or None, migrate=False)
    from django.core.cache import caches

    cache = caches[name]
    if what == "clean":
        return _clean()
    value, calls = "y" * 100, 0
    act: Callable[[int], Any] = {
        "get": lambda n: cache.get(f"key{n % KEYS}"),
        "set": lambda n: cache.set(f"new{n % KEYS}", value, 300),
    }[what]
    act(0)
    times: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        act(calls)
        times.append((time.perf_counter() - began) * 1000)
        calls += 1
    return {"calls": calls, "p50": percentile(times, 50), "p99": percentile(times, 99), "longest": max(times)}


def _clean() -> list[float]:
    from pgonly_django.cache.prune import prune_expired

    times = []
    gone = BATCH
    while gone >= BATCH:
        began = time.perf_counter()
        gone = prune_expired("default", BATCH)
        times.append((time.perf_counter() - began) * 1000)
    return times


if __name__ == "__main__":
    print(json.dumps(_one_process(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
