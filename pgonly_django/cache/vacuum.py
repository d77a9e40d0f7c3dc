"""VACUUM of a cache's table. Autovacuum looks at it once a minute; a busy cache writes gigabytes in that time."""

import contextlib
import logging
import threading

import psycopg

from pgonly_django import events
from pgonly_django.database import connect, testrun
from pgonly_django.tables import qualified

# TRUNCATE would wait for a lock on the whole table. A role that does not own the table gets a warning, no vacuum.
VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE FALSE) {table}"


def vacuum_in_background(alias: str, table: str) -> None:
    if testrun.is_on() and testrun.is_any_in_testcase(alias):
        return  # what this test wrote is rolled back
    with contextlib.suppress(RuntimeError):  # no thread can be started: a later write tries again
        threading.Thread(target=_vacuum, args=(alias, table), name="pgonly cache vacuum", daemon=True).start()


def _vacuum(alias: str, table: str) -> None:
    """On a connection that it opens and closes, since it may take long."""
    try:
        with connect.connect(alias, application_name="pgonly cache vacuum") as connection:
            connection.execute(qualified(VACUUM.replace("{table}", table)).encode())
    except psycopg.Error as error:
        events.emit("cache.cleaning_failed", f"Vacuuming the cache failed: {error}", level=logging.WARNING)
