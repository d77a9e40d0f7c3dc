"""python -m benchmarks cache --soak bounds | deadlock: the long runs. tests/cache has the same in seconds."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import servers
from benchmarks.measure import percentile, write_report

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 4
MAX_BYTES = 50_000_000


def main(arguments: argparse.Namespace) -> int:
    with servers.postgres() as url:
        run = _bounds if arguments.soak == "bounds" else _deadlock
        return run(url, arguments)


def _bounds(url: str, arguments: argparse.Namespace) -> int:
    """Four processes write into 50 MB for five minutes: prints the table's size and the p50 of a write for each tenth.

    The same processes also time a bare upsert into a small table, so a slow moment of the machine shows in both.
    """
    seconds = arguments.seconds or 300
    _migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FLOOR_TABLE)
    writers = [_start(url, "write", seconds, number) for number in range(PROCESSES)]
    sizes = _measure_sizes(url, seconds)
    writes = [json.loads(line) for writer in writers for line in writer.communicate()[0].splitlines()]
    slices = _slices(writes, sizes, seconds)
    for each in slices:
        print("{at:>5.0f} s  {entries:>8,} entries  {bytes:>12,} bytes held  {table:>12,} on disk  "
              "{writes:>9,} writes  p50 {p50:.0f} us  p99 {p99:.0f} us  "
              "bare {floor:.0f} us  ratio {ratio:.2f}".format(**each))  # fmt: skip
    first, last = slices[0]["ratio"], slices[-1]["ratio"]
    print(f"p50 to the bare upsert of the same moment, last tenth against first: {last / first:.2f}")
    write_report(arguments.json, {"bounds": slices})
    return 0


def _measure_sizes(url: str, seconds: float) -> list[dict[str, Any]]:
    """The size of the table at the end of each tenth of the run."""
    query = """SELECT count(*),
        coalesce(sum(octet_length(key) * 2 + coalesce(octet_length(value), 0) + 100), 0),
        pg_total_relation_size('pgonly_cache') FROM pgonly_cache"""
    sizes = []
    with psycopg.connect(url, autocommit=True) as connection:
        for tenth in range(1, 11):
            time.sleep(seconds / 10)
            entries, size, table = connection.execute(query).fetchone() or (0, 0, 0)
            sizes.append({"at": seconds * tenth / 10, "entries": entries, "bytes": int(size), "table": table})
    return sizes


def _slices(
    writes: list[tuple[float, float, float]], sizes: list[dict[str, Any]], seconds: float
) -> list[dict[str, Any]]:
    start = min(at for at, _, _ in writes)
    tenths: list[list[tuple[float, float]]] = [[] for _ in sizes]
    for at, micros, bare in writes:
        tenths[min(int((at - start) / seconds * 10), 9)].append((micros, bare))
    return [_slice(size, pairs) for size, pairs in zip(sizes, tenths, strict=True) if pairs]


def _slice(size: dict[str, Any], pairs: list[tuple[float, float]]) -> dict[str, Any]:
    micros, bare = (list(column) for column in zip(*pairs, strict=True))
    p50, floor = percentile(micros, 50), percentile(bare, 50)
    figures = {"p50": p50, "p99": percentile(micros, 99), "floor": floor, "ratio": p50 / floor}
    return {**size, "writes": len(pairs) * SAMPLE, **figures}


def _deadlock(url: str, arguments: argparse.Namespace) -> int:
    """Four processes call set_many and delete_many on the same keys in opposite orders for a minute."""
    seconds = arguments.seconds or 60
    _migrate(url)
    workers = [_start(url, "opposite", seconds, number) for number in range(PROCESSES)]
    rounds = [int(worker.communicate()[0]) for worker in workers]
    with psycopg.connect(url) as connection:
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        deadlocks = (connection.execute(query).fetchone() or (None,))[0]
    failed = [worker.returncode for worker in workers if worker.returncode]
    print(f"{sum(rounds):,} rounds, {deadlocks} deadlocks, {len(failed)} failed processes in {seconds:g} s")
    write_report(arguments.json, {"deadlock": {"rounds": sum(rounds), "deadlocks": deadlocks}})
    return 1 if failed or deadlocks else 0


def _start(url: str, job: str, seconds: float, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.cache_soak", url, job, str(seconds), str(number)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _migrate(url: str) -> None:
    from django.core.management import call_command

    _configure(url)
    call_command("migrate", verbosity=0)


def _configure(url: str) -> Any:
    import django
    import environ
    from django.conf import settings

    settings.configure(
        DATABASES={"default": environ.Env.db_url_config(url)}, INSTALLED_APPS=["pgonly_django"], USE_TZ=True
    )
    django.setup()
    from pgonly_django.cache import PostgresCache

    return PostgresCache("soak", {"OPTIONS": {"MAX_BYTES": MAX_BYTES, "TIMEOUT_SECONDS": 30}})


# One write in 11 is reported, because all of them would be a million lines.
SAMPLE = 11  # not a multiple of 4, so the samples cover the four sizes of values
FLOOR_TABLE = "CREATE UNLOGGED TABLE floor_entry (key text PRIMARY KEY, value bytea) WITH (fillfactor = 50)"
UPSERT = "INSERT INTO floor_entry VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"


def write(url: str, number: int, seconds: float) -> None:
    """Write values of 100 B to 20 KB under new keys; a tenth of the writes overwrites one."""
    cache = _configure(url)
    written, samples, stop_at = 0, [], time.monotonic() + seconds
    floor = psycopg.connect(url, autocommit=True)
    while time.monotonic() < stop_at:
        value = os.urandom((100, 500, 2_000, 20_000)[written % 4])
        key = f"{number}:{written - 5 if written % 10 == 9 else written}"
        start = time.perf_counter()
        cache.set(key, value, 600)
        between = time.perf_counter()
        if written % SAMPLE == 0:
            floor.execute(UPSERT, (f"{number}:{written % 10}", value), prepare=True)
            bare = time.perf_counter() - between
            samples.append((time.monotonic(), (between - start) * 1e6, bare * 1e6))
        written += 1
    print("\n".join(json.dumps(sample) for sample in samples))


def opposite(url: str, number: int, seconds: float) -> None:
    cache = _configure(url)
    keys = [f"key:{each}" for each in range(100)]
    if number % 2:
        keys.reverse()
    rounds, stop_at = 0, time.monotonic() + seconds
    while time.monotonic() < stop_at:
        cache.set_many(dict.fromkeys(keys, number))
        cache.delete_many(keys[::-1])
        rounds += 1
    print(rounds)


def _job(url: str, job: str, seconds: str, number: str) -> None:
    {"write": write, "opposite": opposite}[job](url, int(number), float(seconds))


if __name__ == "__main__":
    _job(*sys.argv[1:])
