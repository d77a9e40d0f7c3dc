"""A database that is stopped, frozen, restarted or full costs a request little, and the cache comes back."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from django.http import HttpResponse
from django.views.decorators.cache import cache_page

from pgonly_django.exceptions import CacheError, CacheUnavailableError
from tests import in_memory
from tests.cache.failure.conftest import with_options
from tests.elsewhere import missing
from tests.outages import halted, serving_caches
from tests.waiting import wait_for

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_with_the_database_stopped_reads_miss_deletes_say_no_and_writes_raise(aside, server, caplog):
    aside.set("key", "value")
    server.stop()
    with caplog.at_level(logging.WARNING, "pgonly_django.cache"):
        assert aside.get("key", "default") == "default"
    assert "continued without the database" in caplog.text
    assert aside.get_many(["key"]) == {}
    assert not aside.has_key("key")
    assert aside.delete("key") is False
    assert aside.delete_many(["key"]) == 0
    assert aside.delete_pattern("*") == 0
    assert aside.delete_tags("tag") == 0
    assert aside.keys("*") == []
    assert aside.clear() is None
    for write in (
        lambda: aside.set("key", 1),
        lambda: aside.add("key", 1),
        lambda: aside.touch("key"),
        lambda: aside.incr("key"),
        lambda: aside.set_many({"key": 1}),
    ):
        with pytest.raises(CacheUnavailableError):
            write()


def test_on_error_ignore_lets_writes_pass_and_raise_lets_nothing_pass(aside, server):
    ignoring, strict = with_options(ON_ERROR="ignore"), with_options(ON_ERROR="raise")
    server.stop()
    assert ignoring.set("key", 1) is None
    assert ignoring.add("key", 1) is False
    assert ignoring.set_many({"key": 1}) == ["key"]
    calls = (
        lambda: strict.get("key"),
        lambda: strict.delete("key"),
        lambda: strict.get_or_set("key", pytest.fail),
    )
    for call in (*calls, strict.clear):
        with pytest.raises(CacheUnavailableError):
            call()


def test_a_page_under_djangos_cache_middleware_does_without_it_where_errors_are_ignored(
    aside, server, settings, rf
):
    ours = {"BACKEND": "pgonly_django.cache.PostgresCache", "LOCATION": "aside"}
    settings.CACHES = {
        "default": {**ours, "OPTIONS": {"DATABASE": "aside"}},
        "ignoring": {**ours, "OPTIONS": {"DATABASE": "aside", "ON_ERROR": "ignore"}},
    }

    def page(request):
        return HttpResponse("the page")

    server.stop()
    assert cache_page(60, cache="ignoring")(page)(rf.get("/")).text == "the page"
    with pytest.raises(CacheUnavailableError):
        cache_page(60)(page)(rf.get("/"))


def test_after_a_restart_the_same_process_uses_it_again_without_a_failed_call(aside, server):
    aside.set("key", "value")
    server.restart()
    assert aside.add("other", 1)
    assert aside.incr("other") == 2


def test_after_a_crash_of_the_server_it_is_empty_and_works(aside, server):
    aside.set("key", "value")
    with_options(DURABLE=True).set("key", "kept")
    server.restart("immediate")
    assert aside.get("key") is None
    assert with_options(DURABLE=True).get("key") == "kept"
    aside.set("key", "new")
    assert aside.get("key") == "new"


def test_a_server_that_froze_in_the_middle_is_given_up_and_used_again_when_it_thaws(aside, server):
    cache = with_options(TIMEOUT_SECONDS=0.3, ON_ERROR="raise")
    cache.set("key", "value")
    answer = pytest.raises(CacheUnavailableError, match="did not answer")
    with halted(*serving_caches(server)), answer:
        cache.get("key")
    quiet = with_options(TIMEOUT_SECONDS=0.3)
    assert wait_for(lambda: quiet.get("key")) == "value"


def test_a_table_that_is_missing_says_what_to_do(aside, server):
    strict = with_options(ON_ERROR="raise")
    with (
        psycopg.connect(server.url(), autocommit=True) as connection,
        missing(connection.execute, "pgonly_cache"),
        pytest.raises(CacheError, match="Run manage"),
    ):
        strict.get("key")
    assert strict.get("key") is None


def test_a_pool_without_a_free_connection_says_so_and_recovers(aside, server):
    patient, hasty = (
        with_options(TIMEOUT_SECONDS=seconds, POOL_SIZE=1, ON_ERROR="raise") for seconds in (20, 0.2)
    )
    patient.set("key", 1)
    with psycopg.connect(server.url()) as connection, ThreadPoolExecutor(1) as thread:
        connection.execute("SELECT FROM pgonly_cache FOR UPDATE")
        setting = thread.submit(patient.set, "key", 2)
        waiting = (
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'pgonly cache' AND state = 'active'"
        )
        with psycopg.connect(server.url(), autocommit=True) as looking:
            wait_for(lambda: looking.execute(waiting).fetchone())
        with pytest.raises(CacheUnavailableError, match="POOL_SIZE"):
            hasty.get("key")
        connection.commit()
        setting.result(20)
    assert hasty.get("key") == 2


@pytest.fixture
def small_disk(aside, server, tmp_path):
    """A disk of 24 MB, which has the table of the cache and nothing else."""
    place = tempfile.mkdtemp(prefix="pgonly-", dir=in_memory.folder())
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], check=False, capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("only the superuser may mount a disk")
    owner = server.data.stat()
    os.chown(place, owner.st_uid, owner.st_gid)
    Path(place).chmod(0o700)
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
            move(connection, "small")
            yield
            aside.clear()  # to move it takes some room
            move(connection, "pg_default")
            connection.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        Path(place).rmdir()


def move(connection, tablespace):
    connection.execute(f"ALTER TABLE pgonly_cache SET TABLESPACE {tablespace}")
    indexes = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'pgonly_cache'::regclass"
    for (index,) in connection.execute(indexes).fetchall():
        connection.execute(f"ALTER INDEX {index} SET TABLESPACE {tablespace}")


def test_after_the_disk_was_full_a_clear_makes_room_for_as_much_again(aside, server, small_disk):
    with psycopg.connect(server.url(), autocommit=True) as connection:  # a table that was in use before
        for _ in range(3):  # vacuum notes the free pages of an index when it comes again
            fill(aside, 20_000, 600)
            connection.execute("DELETE FROM pgonly_cache")
            connection.execute("VACUUM (TRUNCATE FALSE) pgonly_cache")
    fitted = fill(aside, 20_000)
    assert fitted > 500
    aside.clear()
    # Its vacuum skips what an autovacuum is at work on, and comes again.
    wait_for(lambda: all(thread.name != "pgonly cache vacuum" for thread in threading.enumerate()))
    assert fill(aside, 20_000) > fitted * 0.9


def fill(cache, size, at_most=10**9):
    """How many entries of this size are written until there is no room for another one."""
    for number in range(at_most):
        try:
            cache.set(f"{size} {number}", os.urandom(size), tags=[f"tag {number}"])
        except CacheError as error:
            assert "No space left" in str(error)
            return number
    return at_most
