from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.db import connection

from pgonly_django.cache import PostgresCache, usage
from tests.aliases import alias

ROOT = Path(__file__).resolve().parents[2]
OF_EVERY_CACHE = {"KEY_FUNCTION", "KEY_PREFIX", "TIMEOUT", "VERSION"}
_numbers = itertools.count()

# A busy machine takes longer for one example than hypothesis would allow.
hypothesis.settings.register_profile("without a deadline", deadline=None)
hypothesis.settings.load_profile("without a deadline")


@pytest.fixture(autouse=True)
def _each_test_counts_for_itself():
    """A process counts what all its caches of one name do."""
    for counted in tuple(usage._usages.values()):
        counted.forget()


@pytest.fixture
def make_cache(transactional_db) -> Callable[..., PostgresCache]:
    """A cache on its own connections, each with a namespace of its own unless `location` is given."""

    def make(location: str | None = None, **params: Any) -> PostgresCache:
        options = {name: params.pop(name) for name in tuple(params) if name not in OF_EVERY_CACHE}
        return PostgresCache(location or f"cache{next(_numbers)}", {**params, "OPTIONS": options})

    return make


@pytest.fixture
def cache(make_cache) -> PostgresCache:
    return make_cache()


@pytest.fixture
def any_database(django_db_blocker):
    """Lets a test use aliases that it makes itself, which Django refuses to its tests."""
    with django_db_blocker.unblock():
        yield


class OfItsOwn:
    """A way to the test database that no other test's cache uses, and what PostgreSQL sees of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cache(self, **options: Any) -> PostgresCache:
        """Those with the same POOL_SIZE share their connections."""
        return PostgresCache(self.name, {"OPTIONS": {"DATABASE": self.name, "ON_ERROR": "raise", **options}})

    def pids(self, condition: str = "true") -> list[int]:
        """The server's processes for the connections there are."""
        with contextlib.closing(connection.copy()) as looking, looking.cursor() as cursor:
            cursor.execute(
                f"SELECT pid FROM pg_stat_activity WHERE application_name = %s AND {condition} ORDER BY pid",
                [self.name],
            )
            return [pid for (pid,) in cursor.fetchall()]

    def is_busy(self) -> bool:
        """Whether PostgreSQL is at a statement of a cache."""
        return bool(self.pids("state = 'active'"))


@pytest.fixture
def make_own(transactional_db, any_database) -> Iterator[Callable[..., OfItsOwn]]:
    """An OfItsOwn whose entry in DATABASES has these changes; `options` are libpq's."""
    with contextlib.ExitStack() as aliases:

        def make(options: str = "", **changes: Any) -> OfItsOwn:
            name = f"own{os.getpid()}_{next(_numbers)}"  # the server may serve other processes' tests too
            given = {**connection.settings_dict["OPTIONS"], "application_name": name}
            if options:
                given["options"] = options
            aliases.enter_context(alias(name, OPTIONS=given, **changes))
            return OfItsOwn(name)

        yield make
        with connection._nodb_cursor():  # as where Django creates a database: all let go
            pass


@pytest.fixture
def own(make_own) -> OfItsOwn:
    return make_own()


@pytest.fixture
def crowd(transactional_db) -> Callable[..., list[Any]]:
    """Run a job of tests/cache/crowd.py in many processes; the results of all."""

    def run(job: str, count: int, *, options: dict[str, Any] | None = None, **arguments: Any) -> list[Any]:
        process = start_crowd(job, count, options, **arguments)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        return [json.loads(line) for line in output.splitlines()]

    return run


def start_crowd(
    job: str, count: int, options: dict[str, Any] | None = None, **arguments: Any
) -> subprocess.Popen[str]:
    database = connection.settings_dict["NAME"]
    command = [sys.executable, "-m", "tests.cache.crowd", job, str(count), database]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    return subprocess.Popen(
        [*command, json.dumps(arguments), json.dumps(options or {})],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {condition}")
