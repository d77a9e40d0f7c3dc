"""python -m benchmarks sessions: p50, statements and lost keys of this engine and of Django's, in turns."""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from typing import Any

from benchmarks.measure import median, write_report
from benchmarks.servers import APPEND_ALWAYS, postgres, redis
from benchmarks.sessions_floor import Floor

OURS = "pgonly_django.sessions"
UNWAITING = f"{OURS}, not waiting"
FLOOR = "psycopg alone"
DB = "django.contrib.sessions.backends.db"
CACHED_DB = "django.contrib.sessions.backends.cached_db"
CACHE = "django.contrib.sessions.backends.cache"
# On a Redis that answers a write after it is on disk, as PostgreSQL does.
DURABLE_CACHE = f"{CACHE}, durable"
# Settings for an engine's turns. SESSION_ENGINE is its name up to the comma.
SETTINGS: dict[str, dict[str, Any]] = {
    UNWAITING: {"PGONLY": {"SESSION_WAIT_FOR_DISK": False}},
    DURABLE_CACHE: {"SESSION_CACHE_ALIAS": "durable"},
}
SESSION = {
    "_auth_user_id": "1",
    "_auth_user_backend": "django.contrib.auth.backends.ModelBackend",
    "_auth_user_hash": "7f" * 32,
    "cart": [1, 2, 3],
}
# Targets: our p50 divided by theirs.
TARGETS = (
    ("load", DB, 0.4),
    ("load", CACHED_DB, 1.0),
    ("new", DB, 0.4),
    ("modify", DB, 0.4),
    ("modify", CACHE, 1.0),
    ("modify", DURABLE_CACHE, 1.0),
)

Act = Callable[[], Any]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks sessions", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--calls", type=int, default=20, help="calls of each operation of each engine a round"
    )
    options = parser.parse_args(argv)
    with postgres() as database_url, redis() as redis_url, redis(*APPEND_ALWAYS) as durable_redis_url:
        engines = _set_up(database_url, redis_url, durable_redis_url)
        with closing(Floor(database_url)) as floor:
            figures = {name: _measure(name, engines, floor, options) for name in OPERATIONS}
        lost = {engine: _lost_keys(engine) for engine in engines}
        statements = {name: {e: _count(name, e) for e in engines} for name in OPERATIONS}
        _report(figures, statements, lost)
        write_report(options.json, {"p50_us": figures, "statements": statements, "lost_of_50": lost})
        _tear_down()
    return 0


def _set_up(database_url: str, redis_url: str | None, durable_redis_url: str | None) -> list[str]:
    os.environ["DATABASE_URL"] = database_url
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.sessions_settings"
    os.environ["PGONLY_BENCH_REDIS"] = redis_url or ""
    os.environ["PGONLY_BENCH_DURABLE_REDIS"] = durable_redis_url or ""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    return [OURS, UNWAITING, DB, *([CACHED_DB, CACHE, DURABLE_CACHE] if redis_url else [])]


def _tear_down() -> None:
    from django.db import connections

    connections.close_all()


def _module(engine: str) -> str:
    return engine.partition(",")[0]


@contextmanager
def _settings_of(engine: str) -> Iterator[None]:
    from django.test import override_settings

    with override_settings(SESSION_ENGINE=_module(engine), **SETTINGS.get(engine, {})):
        yield


def _store(engine: str, key: str | None = None) -> Any:
    return import_module(_module(engine)).SessionStore(key)


def _saved(engine: str) -> str:
    session = _store(engine)
    session.update(SESSION)
    session.save()
    return str(session.session_key)


def _load(engine: str, key: str) -> Act:
    return lambda: _store(engine, key)["cart"]


def _new(engine: str, _: str) -> Act:
    return lambda: _saved(engine)


def _modify(engine: str, key: str) -> Act:
    counter = iter(range(10**9))

    def act() -> None:
        session = _store(engine, key)
        session["cart"] = [next(counter)]
        session.save()

    return act


def _touched(engine: str, key: str) -> Act:
    """What the middleware does with SESSION_SAVE_EVERY_REQUEST when the view changed nothing."""

    def act() -> None:
        session = _store(engine, key)
        session.get("cart")
        session.save()

    return act


def _request(_: str, key: str) -> Act:
    """A request through the session middleware to a view that writes one key, and its response."""
    from django.conf import settings
    from django.contrib.sessions.middleware import SessionMiddleware
    from django.http import HttpRequest, HttpResponse

    def view(request: HttpRequest) -> HttpResponse:
        request.session["page"] = time.perf_counter()
        return HttpResponse("ok")

    handler = SessionMiddleware(view)

    def act() -> None:
        request = HttpRequest()
        request.COOKIES[settings.SESSION_COOKIE_NAME] = key
        handler(request)

    return act


OPERATIONS: dict[str, Callable[[str, str], Act]] = {
    "load": _load, "new": _new, "modify": _modify, "touched": _touched, "request": _request,
}  # fmt: skip


def _act(name: str, engine: str) -> Act:
    with _settings_of(engine):
        return OPERATIONS[name](engine, _saved(engine))


def _floor_acts(floor: Floor) -> dict[str, Act]:
    key, counter = floor.new(SESSION), iter(range(10**9))
    return {
        "load": lambda: floor.load(key)["cart"],
        "new": lambda: floor.new(SESSION),
        "modify": lambda: floor.save(key, {**floor.load(key), "cart": [next(counter)]}),
    }


def _measure(name: str, engines: list[str], floor: Floor, options: argparse.Namespace) -> dict[str, float]:
    """The p50 of each engine in microseconds. The engines take turns, so a busy machine slows all alike."""
    acts = {engine: _act(name, engine) for engine in engines}
    if least := _floor_acts(floor).get(name):
        acts[FLOOR] = least
    samples: dict[str, list[float]] = {engine: [] for engine in acts}
    for _ in range(options.rounds):
        for engine, act in acts.items():
            with _settings_of(engine):
                act()
                for _ in range(options.calls):
                    started = time.perf_counter()
                    act()
                    samples[engine].append(time.perf_counter() - started)
    return {engine: round(median(taken) * 1e6, 1) for engine, taken in samples.items()}


def _count(name: str, engine: str) -> str:
    """How many statements one operation sends, BEGIN and COMMIT included, and how many Redis commands."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    act = _act(name, engine)
    with _settings_of(engine):
        act()
        with CaptureQueriesContext(connection) as captured, _redis_commands() as commands:
            act()
    return f"{len(captured)}+{len(commands)}" if commands else str(len(captured))


@contextmanager
def _redis_commands() -> Iterator[list[str]]:
    commands: list[str] = []
    try:
        from redis import Connection
    except ImportError:
        yield commands
        return
    kept = Connection.send_command

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        commands.append(str(args[0]))
        return kept(self, *args, **kwargs)

    Connection.send_command = counted  # type: ignore[method-assign] # to count the commands of one operation
    try:
        yield commands
    finally:
        Connection.send_command = kept  # type: ignore[method-assign] # the original again


def _lost_keys(engine: str) -> int:
    with _settings_of(engine):
        return _lost_of_parallel(engine, 50)


def _lost_of_parallel(engine: str, requests: int) -> int:
    """How many keys are missing after parallel requests that all loaded the session before the first one saved it."""
    from django.db import connections

    key, all_loaded = _saved(engine), threading.Barrier(requests)

    def one_request(number: int) -> None:
        session = _store(engine, key)
        session[f"key-{number}"] = number
        all_loaded.wait(timeout=60)
        session.save()
        connections.close_all()

    threads = [threading.Thread(target=one_request, args=[number]) for number in range(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return requests - sum(name.startswith("key-") for name in _store(engine, key).keys())  # noqa: SIM118 - no dict


def _report(figures: dict[str, Any], statements: dict[str, Any], lost: dict[str, int]) -> None:
    width = max(map(len, lost))
    floor = {name: by_engine[FLOOR] for name, by_engine in figures.items() if FLOOR in by_engine}
    print(
        f"{'p50 us (statements, + Redis commands)':{width}}",
        *(f"{name:>14}" for name in OPERATIONS),
        " lost of 50",
    )
    for engine, missing in lost.items():
        cells = (f"{figures[name][engine]:.0f} ({statements[name][engine]})" for name in OPERATIONS)
        print(f"{engine:{width}}", *(f"{cell:>14}" for cell in cells), f"{missing:>11}")
    cells = (f"{floor[name]:.0f}" if name in floor else "" for name in OPERATIONS)
    print(f"{FLOOR:{width}}", *(f"{cell:>14}" for cell in cells))
    for name, engine, most in TARGETS:
        if engine in figures[name]:
            _report_target(name, engine.rpartition(".")[2], most, figures[name], figures[name][engine])


def _report_target(name: str, peer: str, most: float, ours: dict[str, float], theirs: float) -> None:
    ratio, unwaiting = ours[OURS] / theirs, ours[UNWAITING] / theirs
    verdict = "reached" if ratio <= most else "MISSED"
    least = ours[FLOOR] / theirs
    print(
        f"{name} / {peer}: {ratio:.2f} (target: {most}) {verdict}; not waiting: {unwaiting:.2f}; {FLOOR}: {least:.2f}"
    )
