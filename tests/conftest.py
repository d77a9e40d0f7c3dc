from __future__ import annotations

import contextlib
import gc
import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.management import create_permissions
from django.contrib.contenttypes.management import create_contenttypes
from django.db import connection
from django.db.models.signals import post_migrate
from django.test import TransactionTestCase

from pgonly_django.cache import PostgresCache, eviction
from pgonly_django.database.connect import connect
from pgonly_django.database.pool import _pools as pools
from pgonly_django.database.pool import close_all_idle
from pgonly_django.limits import declarations
from pgonly_django.limits.pool_user import background
from pgonly_django.limits.renewal import renewal
from pgonly_django.testing import drain
from tests.aliases import alias
from tests.chosen import is_in_part, is_slow_as_a_whole, leaves_out_slow, of_the_first_ring
from tests.emptying import close_those_of_async_code, empty_tables
from tests.holder import Holder
from tests.jobs import read_marks
from tests.limits.rows import pids_of_limits
from tests.pooler import pgbouncer
from tests.waiting import PATIENT, wait_for


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the tests that are marked slow, too.")
    parser.addoption(
        "--part", help="k/n: the k-th of n parts of the test files, for a repeat with other versions."
    )


def pytest_ignore_collect(collection_path, config):
    """A file whose tests are all slow is not even imported where they are left out."""
    is_left_out = leaves_out_slow(config) and is_slow_as_a_whole(collection_path)
    return True if is_left_out or not is_in_part(config.getoption("--part"), collection_path) else None


def pytest_xdist_auto_num_workers(config):
    """`-n auto`: the tests wait for half of their time, and the slow ones for more, so two or three lanes share a
    processor. All lanes share the server's connections."""
    return min((2 if leaves_out_slow(config) else 3) * (os.cpu_count() or 1), 8)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Lanes that have nothing left take over what others still have."""
    if config.option.numprocesses and config.option.dist == "no":
        config.option.dist = "worksteal"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    taken, left_out = of_the_first_ring(items)
    for item in left_out:  # `-m slow` takes those of a sample, too
        item.add_marker(pytest.mark.slow)
    if leaves_out_slow(config):
        config.hook.pytest_deselected(items=left_out)
        items[:] = taken


def pytest_collection_finish(session):
    """All that the run has until here stays, so the garbage collector, which some tests call often, passes it over. By
    itself it comes more rarely than usual, which saves 5 % of the CPU of tests/admin."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


# Set in many containers: each of the processes that tests start would compile the package again, half of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

OF_EVERY_CACHE = {"KEY_FUNCTION", "KEY_PREFIX", "TIMEOUT", "VERSION"}
_numbers = itertools.count()

MARKS = "CREATE TABLE IF NOT EXISTS tests_mark (id bigserial PRIMARY KEY, key text NOT NULL)"


@pytest.fixture(autouse=True)
def _each_test_counts_for_itself():
    """A process counts what all its caches of one name do."""
    for each in tuple(eviction._evictions.values()):
        each.counters.reset()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    """The test database, with a table in which the tests' jobs leave their marks."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(MARKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", empty_tables)
        post_migrate.disconnect(
            create_permissions, dispatch_uid=f"{create_permissions.__module__}.create_permissions"
        )
        post_migrate.disconnect(create_contenttypes)
        yield
    close_those_of_async_code()  # or the database could not be dropped


@pytest.fixture
def marks(db):
    """Reads the marks as a list of keys in order; starts empty."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM tests_mark")
    return read_marks


@pytest.fixture
def run_jobs(db):
    """Runs the jobs that are ready or due in the test's own transaction, as a worker runs them: see
    tests/testing/test_as_a_worker.py."""
    yield partial(drain, raise_errors=False)
    close_those_of_async_code()


@pytest.fixture
def pooler():
    """The port of a PgBouncer in transaction mode before the test database's server."""
    with pgbouncer(connection.settings_dict) as port:
        yield port


@pytest.fixture
def server(transactional_db):
    """A connection of our own, as a worker has it."""
    with connect("default", application_name="pgonly tests") as connection:
        yield connection


@pytest.fixture
def other(transactional_db):
    """Somebody else's connection, for what is locked or not committed yet."""
    with connect("default", application_name="pgonly tests, another") as connection:
        yield connection


@pytest.fixture
def make_cache(transactional_db) -> Callable[..., PostgresCache]:
    """A cache on its own connections, each with a namespace of its own unless `location` is given."""

    def make(location: str | None = None, **params: Any) -> PostgresCache:
        options = {name: params.pop(name) for name in tuple(params) if name not in OF_EVERY_CACHE}
        return PostgresCache(location or f"cache{next(_numbers)}", {**params, "OPTIONS": PATIENT | options})

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
        options = PATIENT | {"DATABASE": self.name, "ON_ERROR": "raise"} | options
        return PostgresCache(self.name, {"OPTIONS": options})

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
    made: list[OfItsOwn] = []
    with contextlib.ExitStack() as aliases:

        def make(options: str = "", **changes: Any) -> OfItsOwn:
            name = f"own{os.getpid()}_{next(_numbers)}"  # the server may serve other processes' tests too
            given = {**connection.settings_dict["OPTIONS"], "application_name": name}
            if options:
                given["options"] = options
            aliases.enter_context(alias(name, OPTIONS=given, **changes))
            made.append(OfItsOwn(name))
            return made[-1]

        yield make
        with connection._nodb_cursor():  # as where Django creates a database: all let go
            pass
        # A call that was cancelled or got no answer goes on, and would write into the next test's tables.
        for each in made:
            wait_for(lambda own=each: not own.is_busy())


@pytest.fixture
def own(make_own) -> OfItsOwn:
    return make_own()


def close_connections_of_limits():
    """What a test has left undone opens another one, and is tried again for a while."""
    for pool in tuple(pools.values()):
        pool._failed_at = None  # or it would refuse the calls of the next test for a second
    wait_for(lambda: (thread := background._thread) is None or not thread.is_alive(), 90)
    close_all_idle()


@pytest.fixture
def limits(settings, transactional_db):
    """Declares limiters: limits(deepseek={"concurrent": 5}, pool_size=1)."""

    def declare(pool_size=4, **limiters):
        settings.PGONLY = {**settings.PGONLY, "LIMITERS": limiters, "LIMITS_POOL_SIZE": pool_size}
        declarations.ROWS.said.clear()

    close_connections_of_limits()  # those of tests with budgets too, whose pool has another size
    yield declare
    renewal.forget()
    close_connections_of_limits()
    # A call that was cut off goes on, and would take a slot in the next test's tables.
    wait_for(lambda: not pids_of_limits("state = 'active'"))


@pytest.fixture
def hold(limits) -> Iterator[Any]:
    """hold("deepseek") is a Holder that has got in; hold("deepseek", wait=False) one that may have to wait."""
    with contextlib.ExitStack() as holders:

        def start(*arguments: Any, wait: bool = True, **options: Any) -> Holder:
            holder = Holder(*arguments, **options)
            holders.callback(holder.leave)
            if wait:
                assert holder.is_in.wait(30)
            return holder

        yield start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """The reports of parallel lanes travel as UTF-8; some tests log text that is none."""
    report = yield
    report.sections = [(title, text.encode(errors="replace").decode()) for title, text in report.sections]
    return report
