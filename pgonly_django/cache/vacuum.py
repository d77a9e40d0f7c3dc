"""VACUUM of a cache's table. Autovacuum looks at it once a minute; a busy cache writes gigabytes in that time."""

import contextlib
import logging
import threading
from collections.abc import Callable

import psycopg

from pgonly_django import events
from pgonly_django.database import connect, testrun
from pgonly_django.tables import qualified

# TRUNCATE gives the empty end of the table back to the disk, and readers wait a moment for it: for large deletions.
# Without it a full disk stays full. A role that does not own the table gets a warning, no vacuum.
VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE FALSE) {table}"
VACUUM_AND_SHRINK = "VACUUM (SKIP_LOCKED, TRUNCATE TRUE) {table}"
# To clean an index may take some pages, which a full disk does not have. First what needs none: the large values, which
# are in a table of their own (PostgreSQL 16 and later), and the rows without their indexes.
WHERE_DISK_IS_FULL = (
    "VACUUM (SKIP_LOCKED, TRUNCATE TRUE, PROCESS_MAIN FALSE) {table}",
    "VACUUM (SKIP_LOCKED, TRUNCATE TRUE, INDEX_CLEANUP FALSE) {table}",
)


def vacuum_in_background(
    alias: str, table: str, statement: str = VACUUM, ended: Callable[[], object] = lambda: None
) -> bool:
    """Start a vacuum, and call `ended` after it. False where none is started."""
    if testrun.is_on() and testrun.is_any_in_testcase(alias):
        return False  # what this test wrote is rolled back
    arguments = alias, table, statement, ended
    try:
        threading.Thread(target=_vacuum, args=arguments, name="pgonly cache vacuum", daemon=True).start()
    except RuntimeError:  # no thread can be started: a later write tries again
        return False
    return True


def _vacuum(alias: str, table: str, statement: str, ended: Callable[[], object]) -> None:
    """On a connection that it opens and closes, since it may take long."""
    first, *others = (
        qualified(each.replace("{table}", table)).encode() for each in (statement, *WHERE_DISK_IS_FULL)
    )
    try:
        with connect.connect(alias, application_name="pgonly cache vacuum") as connection:
            try:
                connection.execute(first)
            except psycopg.errors.DiskFull:
                for each in others:
                    with contextlib.suppress(psycopg.DatabaseError):
                        connection.execute(each)
                connection.execute(first)
    except psycopg.Error as error:
        events.emit("cache.cleaning_failed", f"Vacuuming the cache failed: {error}", level=logging.WARNING)
    finally:
        ended()
