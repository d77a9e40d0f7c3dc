"""python -m benchmarks cache: this cache, Django's DatabaseCache and RedisCache, django-redis, and raw SQL.

One run measures all of them in turns, and each turn opens new connections. On a small machine the same pair of
processes is faster or slower by a factor of three, depending on its core, so compare only medians over many turns.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any, TypeVar

from benchmarks import servers
from benchmarks.cache_values import KINDS, KINDS_FROM
from benchmarks.measure import median, percentile, write_report

T = TypeVar("T")
Timings = dict[tuple[str, str], list[list[float]]]
MANY = 100


def main(argv: list[str]) -> int:
    arguments = _arguments(argv)
    if arguments.soak:
        from benchmarks import cache_soak

        return cache_soak.main(arguments)
    with servers.postgres() as url, servers.redis() as redis_url:
        configure(url, redis_url)
        from benchmarks.cache_contenders import contenders

        figures: dict[str, Any] = {}
        if arguments.only in (None, "latency"):
            for size in arguments.sizes:
                for kind in KINDS if size >= KINDS_FROM else [next(iter(KINDS))]:
                    figures[f"{size} B, {kind}"] = _latencies(contenders(url), size, kind, arguments)
        if arguments.only in (None, "threads"):
            figures["threads"] = _throughputs(contenders(url), arguments)
        if arguments.only in (None, "async"):
            figures["async"] = asyncio.run(_async_latencies(contenders(url), arguments))
        if arguments.only in (None, "statements"):
            figures["statements per call"] = _statements()
    write_report(arguments.json, figures)
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cache", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="turns of every contender")
    parser.add_argument("--calls", type=int, default=150, help="calls of one operation in a turn")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 10_240], help="bytes of a value")
    parser.add_argument(
        "--only", choices=["latency", "threads", "async", "statements"], help="measure only this part"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    parser.add_argument("--soak", choices=["bounds", "deadlock"], help="a long run instead; see --seconds")
    parser.add_argument("--seconds", type=float, help="length of the long run")
    return parser.parse_args(argv)


def configure(url: str, redis_url: str | None, *, migrate: bool = True) -> None:
    import environ
    from django.conf import settings
    from django.core.management import call_command

    caches: dict[str, dict[str, Any]] = {
        "pgonly": {"BACKEND": "pgonly_django.cache.PostgresCache", "LOCATION": "bench"},
        "DatabaseCache": {
            "BACKEND": "django.core.cache.backends.db.DatabaseCache",
            "LOCATION": "django_cache",
            "OPTIONS": {"MAX_ENTRIES": 10**9},
        },
    }
    if redis_url is not None and importlib.util.find_spec("redis"):
        caches["RedisCache"] = {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": redis_url,
        }
        if importlib.util.find_spec("django_redis"):
            caches["django-redis"] = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_url}
    settings.configure(
        DATABASES={"default": environ.Env.db_url_config(url)},
        INSTALLED_APPS=["pgonly_django"],
        CACHES={"default": caches["pgonly"], **caches},
        USE_TZ=True,
    )
    import django

    django.setup()
    if migrate:
        call_command("migrate", verbosity=0)
        call_command("createcachetable", verbosity=0)


def _latencies(contenders: list[Any], size: int, kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    timings: Timings = {}
    values = [KINDS[kind](size) for _ in range(MANY)]
    for turn in range(arguments.rounds):
        for contender in _rotated(contenders, turn):
            contender.reconnect()
            for name, calls, act in _operations(contender, values, arguments.calls, turn):
                timings.setdefault((name, contender.name), []).append(_time(act, calls))
    return _table(f"{size} B, {kind}, one thread", timings)


def _rotated(items: list[T], turn: int) -> list[T]:
    """In each turn another one comes first."""
    shift = turn % len(items)
    return items[shift:] + items[:shift]


def _operations(
    contender: Any, values: list[Any], calls: int, turn: int
) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    value, many = values[0], {f"many:{number}": each for number, each in enumerate(values)}
    added, deleted = count(), count()
    contender.set("hit", value)
    contender.set("number", 1)
    contender.set_many(many)
    if contender.name == "DatabaseCache":
        calls = max(10, calls // 5)
    # These take turns too: the first calls on a new connection run at another speed than the last ones.
    alike: list[tuple[str, Callable[[], Any]]] = [
        ("get", lambda: contender.get("hit")),
        ("get miss", lambda: contender.get("missing")),
        ("set", lambda: contender.set("hit", value)),
        ("incr", lambda: contender.incr("number")),
        ("touch", lambda: contender.touch("hit")),
    ]
    for name, act in _rotated(alike, turn):
        yield name, calls, act
    yield "add", calls, lambda: contender.add(f"add:{turn}:{next(added)}", value)
    yield "delete", calls, lambda: contender.delete(f"add:{turn}:{next(deleted)}")
    batches = max(5, calls // 10)
    yield "get_many(100)", batches, lambda: contender.get_many(list(many))
    if contender.name != "DatabaseCache":
        yield "set_many(100)", batches, lambda: contender.set_many(many)


def _time(act: Callable[[], Any], calls: int) -> list[float]:
    for _ in range(min(8, calls)):
        act()
    samples = []
    for _ in range(calls):
        start = time.perf_counter()
        act()
        samples.append((time.perf_counter() - start) * 1e6)
    return samples


def _table(title: str, timings: Timings) -> dict[str, Any]:
    names = list(dict.fromkeys(name for _, name in timings))
    print(f"\n{title}: p50 / p99 us (p50 as a ratio: this cache over the other)")
    print(f"{'':16}" + "".join(f"{name:>26}" for name in names))
    figures: dict[str, Any] = {}
    for operation in dict.fromkeys(operation for operation, _ in timings):
        row: dict[str, Any] = {
            name: _summary(timings[operation, name]) for name in names if (operation, name) in timings
        }
        for figure in row.values():
            figure["ratio"] = row["pgonly"]["p50"] / figure["p50"]
        figures[operation] = row
        cells = [_cell(row.get(name)) for name in names]
        print(f"{operation:16}" + "".join(f"{cell:>26}" for cell in cells))
    return figures


def _summary(turns: list[list[float]]) -> dict[str, float]:
    """The median turn's p50, and the p99 of all calls."""
    return {
        "p50": median([percentile(samples, 50) for samples in turns]),
        "p99": percentile([sample for samples in turns for sample in samples], 99),
    }


def _cell(figure: dict[str, float] | None) -> str:
    if figure is None:
        return "-"
    return f"{figure['p50']:.0f} / {figure['p99']:.0f} ({figure['ratio']:.2f})"


def _throughputs(contenders: list[Any], arguments: argparse.Namespace, threads: int = 4) -> dict[str, Any]:
    value, rates = os.urandom(100), {}
    for turn in range(max(3, arguments.rounds // 3)):
        for contender in _rotated(contenders, turn):
            contender.reconnect()
            contender.set("hit", value)
            for name, act in (
                ("get", lambda c=contender: c.get("hit")),
                ("set", lambda c=contender: c.set(f"thread:{threading.get_ident()}", value)),
            ):
                rate = _calls_per_second(act, threads, seconds=0.5)
                rates.setdefault((name, contender.name), []).append(rate)
    return _rate_table(f"100 B, {threads} threads", rates)


def _calls_per_second(act: Callable[[], Any], threads: int, seconds: float) -> float:
    done, stop = [0] * threads, threading.Event()
    ready = threading.Barrier(threads + 1)

    def work(place: int) -> None:
        act()
        ready.wait()
        while not stop.is_set():
            act()
            done[place] += 1

    workers = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    start = time.perf_counter()
    stop.wait(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    return sum(done) / (time.perf_counter() - start)


def _rate_table(title: str, rates: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    print(f"\n{title}: calls/s (ratio: this cache over the other)")
    figures: dict[str, Any] = {}
    for (operation, name), samples in rates.items():
        figures.setdefault(operation, {})[name] = {"per_second": median(samples)}
    for operation, row in figures.items():
        for figure in row.values():
            figure["ratio"] = row["pgonly"]["per_second"] / figure["per_second"]
        cells = (f"{name} {cell['per_second']:,.0f} ({cell['ratio']:.2f})" for name, cell in row.items())
        print(f"{operation:6}" + "   ".join(cells))
    return figures


async def _async_latencies(contenders: list[Any], arguments: argparse.Namespace) -> dict[str, Any]:
    timings: Timings = {}
    value = os.urandom(100)
    for turn in range(arguments.rounds):
        for contender in _rotated(contenders, turn):
            await contender.areconnect()
            await contender.aset("hit", value)
            acts: dict[str, Callable[[], Awaitable[Any]]] = {
                "aget": lambda c=contender: c.aget("hit"),
                "aset": lambda c=contender: c.aset("hit", value),
            }
            for name, act in acts.items():
                samples = await _atime(act, arguments.calls)
                timings.setdefault((name, contender.name), []).append(samples)
    return _table("100 B, async", timings)


async def _atime(act: Callable[[], Awaitable[Any]], calls: int) -> list[float]:
    samples = []
    for number in range(calls + 8):
        start = time.perf_counter()
        await act()
        if number >= 8:
            samples.append((time.perf_counter() - start) * 1e6)
    return samples


def _statements() -> dict[str, float]:
    from benchmarks.cache_contenders import statements_per_call

    figures = statements_per_call()
    print("\nstatements per call: " + ", ".join(f"{name} {each:g}" for name, each in figures.items()))
    return figures
