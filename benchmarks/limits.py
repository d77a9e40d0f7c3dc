"""python -m benchmarks limits: many processes at one limiter: how many are inside, how many slots are used, the rate of
tokens, and how soon a cool-down stops all."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.measure import median, write_report
from benchmarks.servers import postgres

NAME = "llm"
SLOTS, PROCESSES, USERS = 5, 20, 5
HOLD_SECONDS = 0.5
TOKENS_A_MINUTE, TOKENS = 90_000, 100
COOL_DOWN_SECONDS = 3.0
START_UP_SECONDS = 60

COUNTER = """
CREATE TABLE bench_inside (n int, most int, busy float8);
INSERT INTO bench_inside VALUES (0, 0, 0);
CREATE TABLE bench_entered (at timestamptz)
"""
ENTER = "UPDATE bench_inside SET n = n + 1, most = greatest(most, n + 1)"
LEAVE = "UPDATE bench_inside SET n = n - 1"
ENTERED = "INSERT INTO bench_entered VALUES (clock_timestamp())"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks limits", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the part on concurrent users")
    parser.add_argument("--rate-seconds", type=float, default=62.0, help="of the part on tokens")
    options = parser.parse_args(argv)
    with postgres() as url:
        limits = {"concurrent": SLOTS}
        with database(url, {NAME: limits}) as connection:
            figures = {
                "one caller": _one_caller(),
                "concurrent": _concurrent(connection, url, options.seconds),
                "cool-down": _cool_down(connection, url),
            }
        with database(url, {NAME: {"tokens_per_minute": TOKENS_A_MINUTE}}):
            figures["tokens"] = _tokens(url, options.rate_seconds)
    for part, values in figures.items():
        print(f"{part:12}" + "   ".join(f"{name} {value:,.4g}" for name, value in values.items()))
    write_report(options.json, {"limits": figures})
    return 0


@contextmanager
def database(url: str, limiters: dict[str, Any]) -> Iterator[Any]:
    """A migrated database, these limiters, and a connection for counting."""
    import django
    import environ
    import psycopg
    from django.conf import settings

    if not settings.configured:
        databases = {"default": environ.Env.db_url_config(url)}
        settings.configure(DATABASES=databases, INSTALLED_APPS=["pgonly_django"], USE_TZ=True)
        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
    settings.PGONLY = {"LIMITERS": limiters}
    from pgonly_django.conf import settings as ours
    from pgonly_django.models import Limiter

    ours.cache_clear()
    for name, limits in limiters.items():
        every = {"concurrent": None, "requests_per_minute": None, "tokens_per_minute": None}
        Limiter.objects.declare({name: {**every, **limits}})
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bench_inside, bench_entered")
        connection.execute(COUNTER)
        yield connection


def _one_caller() -> dict[str, float]:
    """Without anybody beside it: into the limiter and out of it, two statements and two commits."""
    from pgonly_django import limiter

    times = []
    for _ in range(300):
        began = time.perf_counter()
        with limiter(NAME):
            pass
        times.append((time.perf_counter() - began) * 1000)
    return {"in and out, p50 ms": median(times)}


def _concurrent(connection: Any, url: str, seconds: float) -> dict[str, float]:
    with users(url, "hold", seconds, {"concurrent": SLOTS}) as results:
        pass
    (most,) = connection.execute("SELECT most FROM bench_inside").fetchone()
    busy = sum(sum(each["busy"]) for each in results)
    return {
        "users": PROCESSES * USERS,
        "slots": SLOTS,
        "most inside": most,
        "slots in use on average": busy / seconds,
        "uses": sum(len(each["busy"]) for each in results),
    }


def _cool_down(connection: Any, url: str) -> dict[str, float]:
    from pgonly_django import limiter

    def stop() -> None:
        limiter(NAME).cool_down(COOL_DOWN_SECONDS)
        times["commit"], times["end"] = connection.execute(
            "SELECT clock_timestamp(), blocked_until FROM pgonly_limiter WHERE name = %s", [NAME]
        ).fetchone()

    times: dict[str, Any] = {}
    with users(url, "hold", 10, {"concurrent": SLOTS}, hold=0.02) as results:
        time.sleep(4)
        stop()
    # An entry is noted by its user, after it got in: what is noted in the first milliseconds got in before.
    entered = connection.execute(
        "SELECT date_part('epoch', at - %s) * 1000 FROM bench_entered WHERE at BETWEEN %s AND %s",
        [times["commit"], times["commit"], times["end"]],
    ).fetchall()
    return {
        "uses": sum(len(each["busy"]) for each in results),
        "last use noted, ms after the commit": max((ms for (ms,) in entered), default=0.0),
    }


def _tokens(url: str, seconds: float) -> dict[str, float]:
    """Over 60 s, or less in a shorter run, from the second second on."""
    with users(url, "take", seconds, {"tokens_per_minute": TOKENS_A_MINUTE}) as results:
        pass
    times = sorted(at for each in results for at in each["at"])
    first, span = times[0] + 1.0, min(60.0, seconds - 2.0)
    taken = TOKENS * sum(first <= at < first + span for at in times)
    return {
        "tokens": taken,
        "seconds": span,
        "to the rate": taken / (TOKENS_A_MINUTE * span / 60),
    }


@contextmanager
def users(
    url: str, act: str, seconds: float, limits: dict[str, Any], hold: float = HOLD_SECONDS
) -> Iterator[list[Any]]:
    """PROCESSES with USERS threads each; in the end what each of them says."""
    facts = json.dumps({"url": url, "act": act, "seconds": seconds, "limits": limits, "hold": hold})
    command = [sys.executable, "-m", "benchmarks.limits", facts]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(PROCESSES)]
    results: list[Any] = []
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield results
        results += [json.loads(each.communicate(timeout=seconds + START_UP_SECONDS)[0]) for each in processes]
    finally:
        for process in processes:
            process.kill()


def user(facts: dict[str, Any]) -> None:
    with database_of_user(facts) as connection:
        from pgonly_django import limiter

        with limiter(NAME):
            pass
        print("ready", flush=True)
        sys.stdin.readline()
        stop_at = time.monotonic() + facts["seconds"]
        acts = {"hold": _hold, "take": _take}
        said = acts[facts["act"]](connection, stop_at, facts["hold"])
        os.write(1, json.dumps(said).encode())


@contextmanager
def database_of_user(facts: dict[str, Any]) -> Iterator[Any]:
    import django
    import environ
    import psycopg
    from django.conf import settings

    settings.configure(
        DATABASES={"default": environ.Env.db_url_config(facts["url"])},
        INSTALLED_APPS=["pgonly_django"],
        USE_TZ=True,
        PGONLY={"LIMITERS": {NAME: facts["limits"]}, "LIMITS_POOL_SIZE": 2},
    )
    django.setup()
    with psycopg.connect(facts["url"], autocommit=True) as connection:
        yield connection


def _hold(connection: Any, stop_at: float, hold: float) -> dict[str, list[float]]:
    """How long each use had its slot, up to `stop_at`."""
    from pgonly_django import limiter

    busy: list[float] = []
    lock = threading.Lock()

    def work() -> None:
        while time.monotonic() < stop_at:
            with limiter(NAME):
                began = time.monotonic()
                with lock:
                    connection.execute(ENTER)
                    connection.execute(ENTERED)
                time.sleep(max(min(hold, stop_at - began), 0))
                with lock:
                    connection.execute(LEAVE)
                busy.append(max(min(time.monotonic(), stop_at) - began, 0))

    _together(work)
    return {"busy": busy}


def _take(_connection: Any, stop_at: float, _hold_seconds: float) -> dict[str, list[float]]:
    """When (time.time()) each use got in."""
    from pgonly_django import limiter

    at: list[float] = []

    def work() -> None:
        while time.monotonic() < stop_at:
            with limiter(NAME, tokens=TOKENS):
                at.append(time.time())

    _together(work)
    return {"at": at}


def _together(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(USERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    user(json.loads(sys.argv[1]))
