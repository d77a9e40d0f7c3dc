"""python -m benchmarks throttle: a throttled request, by our throttle and by Django REST framework's over this cache
and over django-redis: what it costs, and how many are admitted when they come at once. Needs djangorestframework."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks import servers
from benchmarks.measure import median, percentile, write_report

THREADS = 16
RATES = ("60/min", "1000/hour")
Ask = Callable[[], bool]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks throttle", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    parser.add_argument("--requests", type=int, default=2000, help="of each throttle, one after the other")
    options = parser.parse_args(argv)
    figures: dict[str, dict[str, float]] = {}
    with servers.postgres() as url, servers.redis() as redis_url:
        throttles = configure(url, redis_url)
        for rate in RATES:
            for name, make in throttles.items():
                figures[f"{rate}, {name}"] = measured(make, rate, options.requests)
    for name, values in figures.items():
        print(f"{name:38}" + "   ".join(f"{what} {value:,.0f}" for what, value in values.items()))
    write_report(options.json, {"throttle": figures})
    return 0


def configure(url: str, redis_url: str | None) -> dict[str, Callable[[str, str], Ask]]:
    """By names, what makes a throttle for a rate and a user."""
    import django
    import environ
    from django.conf import settings

    caches = {"default": {"BACKEND": "pgonly_django.cache.PostgresCache"}}
    if redis_url is not None:
        caches["redis"] = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_url}
    apps = ["django.contrib.auth", "django.contrib.contenttypes", "rest_framework", "pgonly_django"]
    databases = {"default": environ.Env.db_url_config(url)}
    settings.configure(DATABASES=databases, INSTALLED_APPS=apps, CACHES=caches, USE_TZ=True)
    django.setup()
    from django.core.cache import caches as every
    from django.core.management import call_command
    from rest_framework.throttling import SimpleRateThrottle

    from pgonly_django.throttling.rest_framework import PostgresThrottle

    call_command("migrate", verbosity=0)
    found = {"ours": maker(PostgresThrottle, every["default"])}
    found["DRF's, PostgresCache"] = maker(SimpleRateThrottle, every["default"])
    if redis_url is not None:
        found["DRF's, django-redis"] = maker(SimpleRateThrottle, every["redis"])
    return found


def maker(base: Any, in_cache: Any) -> Callable[[str, str], Ask]:
    def make(a_rate: str, user: str) -> Ask:
        class Throttle(base):  # type: ignore[misc]  # either framework class
            cache, rate = in_cache, a_rate

            def get_cache_key(self, *_: Any) -> str:
                return user

        return lambda: bool(Throttle().allow_request(None, None))

    return make


def measured(make: Callable[[str, str], Ask], rate: str, requests: int) -> dict[str, float]:
    """Microseconds a request of one caller, while admitted and once refused; how many of 16 threads' are admitted."""
    limit = int(rate.partition("/")[0])
    micros: dict[bool, list[float]] = {True: [], False: []}
    asks = [make(rate, f"{rate} user {number}") for number in range(max(1, requests // limit // 2))]
    for number in range(requests):
        ask = asks[number % len(asks)]
        start = time.perf_counter()
        micros[ask()].append((time.perf_counter() - start) * 1e6)
    figures = {f"{what} us": median(micros[what == "admitted"] or [0.0]) for what in ("admitted", "refused")}
    figures["p99 us"] = percentile([*micros[True], *micros[False]], 99)
    figures["limit"], figures["admitted at once"] = limit, at_once(make(rate, f"{rate} crowd"), limit * 3)
    return figures


def at_once(ask: Ask, requests: int) -> int:
    barrier = threading.Barrier(THREADS)

    def one(number: int) -> bool:
        if number < THREADS:
            barrier.wait(10)
        return ask()

    with ThreadPoolExecutor(THREADS) as threads:
        return sum(threads.map(one, range(requests)))
