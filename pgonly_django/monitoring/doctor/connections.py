"""Connections: how many the pools may open against what the server allows, and whether LISTEN hears a NOTIFY."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from pgonly_django.cache.backend import our_caches
from pgonly_django.conf import settings
from pgonly_django.database import testrun
from pgonly_django.database.connect import reaches_postgres
from pgonly_django.database.listener import listen_alias, seconds_until_heard
from pgonly_django.models import Job, Worker
from pgonly_django.monitoring.conditions import NOTIFY_LOST
from pgonly_django.monitoring.doctor.reading import belongs_to, by_sql, reading, rows
from pgonly_django.monitoring.findings import Condition, Finding, Level, counted

# A worker claims on one, renews leases on one, and opens one for maintenance and schedules.
OF_A_WORKER = 3

NEARLY_USED_UP = Condition(
    "D081",
    Level.WARNING,
    "{used} of {allowed:n connection} are in use ({limit}).",
    "See whose they are: SELECT usename, application_name, count(*) FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 "
    "DESC; lower the pools, or: {_raise}",
    limit=0.8,
    error_from=0.95,
    measure="_part",
)
POOLS_TOO_LARGE = Condition(
    "D082",
    Level.WARNING,
    "The pools may open {wanted:n connection}, and the server allows {allowed} ({limit}): {_parts}.",
    'Lower OPTIONS["POOL_SIZE"] of CACHES, OPTIONS["pool"]["max_size"] of DATABASES, PGONLY["LIMITS_POOL_SIZE"] or '
    "runworker --threads; put a pooler before the server; or: {_raise}",
)
# Of the server, of this role and of this database; superusers have none. PostgreSQL 16 brought reserved_connections.
LIMITS = """
SELECT most - reserved AS allowed,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' OR usename IS NOT NULL) AS used,
    format('max_connections %%s less %%s reserved', most, reserved) AS "limit",
    format('ALTER SYSTEM SET max_connections = %%s; and restart the server', most * 2) AS _raise
FROM (SELECT current_setting('max_connections')::int AS most, current_setting('superuser_reserved_connections')::int
    + coalesce(current_setting('reserved_connections', true), '0')::int AS reserved) AS settings
UNION ALL
SELECT rolconnlimit, (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user),
    'CONNECTION LIMIT of the role ' || rolname, format('ALTER ROLE %%I CONNECTION LIMIT -1;', rolname)
FROM pg_roles WHERE rolname = current_user AND NOT rolsuper AND rolconnlimit >= 0
UNION ALL
SELECT datconnlimit,
    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename IS NOT NULL),
    'CONNECTION LIMIT of the database ' || datname, format('ALTER DATABASE %%I CONNECTION LIMIT -1;', datname)
FROM pg_database, pg_roles
WHERE datname = current_database() AND rolname = current_user AND NOT rolsuper AND datconnlimit >= 0
"""
in_use = by_sql(
    NEARLY_USED_UP,
    f"""
SELECT * FROM (SELECT *, used / greatest(allowed, 1)::float8 AS _part FROM ({LIMITS}) AS limits) AS used_up
WHERE _part >= %(limit)s
""",
)


def pools(alias: str) -> Iterator[Finding]:
    """D082: one process alone, or all of them together, may open more than there are. Behind a pooler they may."""
    with reading(alias):
        if not reaches_postgres(connections[alias].connection):
            return
    limit = min(rows(alias, LIMITS), key=lambda row: row["allowed"])
    allowed = limit["allowed"]
    of_web, web = of_a_process(alias) + (_django_pool(alias) or 1), web_processes()
    workers, of_workers = _of_workers(alias)
    wanted = of_web * web + of_workers
    if wanted > allowed:
        parts = f"{counted(web, 'process/processes')} of the site {of_web} each"
        yield POOLS_TOO_LARGE.finding(
            level=Level.ERROR if of_web > allowed else None,
            wanted=wanted,
            **limit,
            web_processes=web,
            of_a_web_process=of_web,
            workers=workers,
            of_workers=of_workers,
            _parts=f"{parts}, {counted(workers, 'live worker')} {of_workers} together" if workers else parts,
        )


def of_a_process(alias: str) -> int:
    """Returns the number of connections that our pools in one process may open to this database."""
    sizes = {id(cache.store.pool): cache.store.pool for cache in our_caches().values()}
    of_caches = sum(pool.size for pool in sizes.values() if pool.alias == alias)
    has_limits = belongs_to(alias, Worker) and (settings().limiters or settings().budgets)
    return of_caches + (settings().limits_pool_size if has_limits else 0)


def _django_pool(alias: str) -> int | None:
    pool: Any = connections[alias].settings_dict["OPTIONS"].get("pool")
    if not pool:
        return None
    given = pool if isinstance(pool, dict) else {}
    return int(given.get("max_size") or given.get("min_size") or 4)  # psycopg_pool's own default


def web_processes() -> int:
    """Returns WEB_CONCURRENCY, which platforms set and gunicorn and uvicorn read; otherwise 1, the least that there
    is."""
    given = os.environ.get("WEB_CONCURRENCY", "")
    return max(int(given), 1) if given.isascii() and given.isdigit() else 1


def _of_workers(alias: str) -> tuple[int, int]:
    """Returns (number of live workers that have connections, connections that they may open together)."""
    if not belongs_to(alias, Worker):
        return 0, 0
    with reading(alias):
        awake = Worker.objects.using(alias).live().filter(sleeping_since=None)
        threads = list(awake.values_list("threads", flat=True))
    most = _django_pool(alias)
    others = OF_A_WORKER + (listen_alias(alias) != alias) + of_a_process(alias)
    return len(threads), sum(min(each, most or each) + others for each in threads)


DIRECT = (
    'Give DATABASES an entry "direct" that leads past the pooler to the same NAME, and set '
    'PGONLY["LISTEN_DATABASE"] = "direct" (docs/how-to/connections.md#listen-past-a-pooler).'
)
NOTIFY_SLOW = Condition(
    "D062",
    Level.WARNING,
    "A NOTIFY took {seconds:.2f} s to arrive: each new job waits so long before a worker looks.",
    "Look for what keeps the server or the network busy. Commits that send NOTIFY wait for one lock: "
    "SELECT pid, wait_event, query FROM pg_stat_activity WHERE wait_event_type = 'Lock';",
    limit=0.5,
)
NO_CONNECTION = Condition(
    "D063",
    Level.ERROR,
    "The connection on which workers LISTEN cannot be opened: {_error}",
    "Correct DATABASES[{listened_on!r}]: manage.py dbshell --database {listened_on}",
)
NOT_TESTED = Condition(
    "D065",
    Level.INFO,
    "Whether a NOTIFY arrives was not tested: a test may not open another connection.",
    "Run it outside: manage.py pgonly_doctor",
)


def notify(alias: str) -> Iterator[Finding]:
    """D061: it does not arrive. D062: it was late. D063: the connection that listens cannot be opened."""
    if not belongs_to(alias, Job):
        return
    try:
        listening = listen_alias(alias)
        seconds = seconds_until_heard(alias, NOTIFY_LOST.limit)
    except testrun.Refusal:
        yield NOT_TESTED.finding()
    except ImproperlyConfigured:
        return  # the system check pgonly_django.E012 says so
    except psycopg.Error as error:
        line = " ".join(str(error).split())[:200]
        if isinstance(error, psycopg.OperationalError):
            yield NO_CONNECTION.finding(listened_on=listening, _error=line)
        else:
            yield _not_heard(alias, listening, f"the server refuses it: {line}")
    else:
        if seconds is None:
            yield _not_heard(alias, listening, f"nothing came within {NOTIFY_LOST.limit:g} s")
        elif seconds > NOTIFY_SLOW.limit:
            yield NOTIFY_SLOW.finding(seconds=seconds)


def _not_heard(alias: str, listening: str, why: str) -> Finding:
    remedy = (
        f'PGONLY["LISTEN_DATABASE"] is {listening!r}: it must lead to the same server as {alias!r}, and to no pooler '
        "in transaction mode."
    )
    return NOTIFY_LOST.finding(
        sent_on=alias,
        listened_on=listening,
        waited_seconds=NOTIFY_LOST.limit,
        _why=why,
        _remedy=DIRECT if listening == alias else remedy,
    )


notify_queue = by_sql(
    Condition(
        "D064",
        Level.ERROR,
        "The server's queue of notifications is {usage:.0%} full; at 100 % every commit with a NOTIFY fails. A session "
        "that listens has had a transaction open for long.",
        "Find it, and end it: SELECT pid, application_name, xact_start FROM pg_stat_activity WHERE xact_start IS NOT "
        "NULL ORDER BY xact_start; SELECT pg_terminate_backend(PID);",
        limit=0.5,
    ),
    "SELECT usage FROM (SELECT pg_notification_queue_usage() AS usage) AS queue WHERE usage >= %(limit)s",
)
