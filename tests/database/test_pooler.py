"""Behind PgBouncer in transaction mode."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection

from pgonly_django.cache import PostgresCache
from pgonly_django.database import listener
from tests.aliases import alias
from tests.waiting import PATIENT, wait_for

pytestmark = pytest.mark.slow


def test_behind_pgbouncer_in_transaction_mode(transactional_db, any_database, pooler):
    name = connection.settings_dict["NAME"]
    with alias("bouncer", HOST="127.0.0.1", PORT=pooler):
        wait_for(lambda: answers(pooler, name))
        cache = PostgresCache("bouncer", {"OPTIONS": PATIENT | {"DATABASE": "bouncer", "ON_ERROR": "raise"}})
        numbers = range(40)

        def work(number):
            cache.set(f"key:{number}", number)
            cache.incr(f"key:{number}")
            assert cache.get_or_set(f"computed:{number}", lambda: number) == number

        with ThreadPoolExecutor(len(numbers)) as threads:
            list(threads.map(work, numbers))
        found = cache.get_many([f"key:{number}" for number in numbers])
        assert found == {f"key:{number}": number + 1 for number in numbers}
        with cache.lock("name", timeout=20):
            start = time.monotonic()
            assert not cache.lock("name").acquire(blocking_timeout=0.3)
            assert time.monotonic() - start < 20
        cache.store.pool.close_idle()
        listener.stop_all()
        # All five connections behind it stay as they were: others use them too.
        assert setting_of_each_server(pooler, name, "enable_seqscan") == {"on"}
        assert setting_of_each_server(pooler, name, "client_connection_check_interval") == {"0"}


def setting_of_each_server(port, database, name):
    """What the connections that the pooler keeps to the server have been set to."""
    with contextlib.ExitStack() as stack:
        found = set()
        for _ in range(5):  # a transaction each, so that each gets its own
            raw = stack.enter_context(through(port, database))
            found.add(raw.execute("SELECT current_setting(%s)", [name]).fetchone()[0])
        return found


def answers(port, database):
    with contextlib.suppress(psycopg.Error):
        through(port, database).close()
        return True


def through(port, database):
    return psycopg.connect(host="127.0.0.1", port=port, dbname=database, user="postgres", connect_timeout=2)
