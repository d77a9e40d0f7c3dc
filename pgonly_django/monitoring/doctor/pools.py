"""What the pools of the workers and of the site may open, against what the server lets them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connections

from pgonly_django.cache.backend import our_caches
from pgonly_django.conf import settings
from pgonly_django.database.listener import listen_alias
from pgonly_django.models import Worker
from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.our_tables import belongs_to
from pgonly_django.monitoring.doctor.reading import is_direct, reading, row
from pgonly_django.monitoring.doctor.words import counted, identifier

FULL_WARNING, FULL_ERROR = 0.8, 0.95
# A worker claims on one, renews leases on one, and opens one for maintenance and schedules.
OF_A_WORKER = 3
SUPPOSED_THREADS = 1  # of a web process without a pool of Django's

# reserved_connections is there from PostgreSQL 16 on. -1: no limit; superusers have none.
LIMITS = """
SELECT current_setting('max_connections')::int,
    current_setting('superuser_reserved_connections')::int
        + coalesce(current_setting('reserved_connections', true), '0')::int,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' OR usename IS NOT NULL),
    CASE WHEN rolsuper THEN -1 ELSE rolconnlimit END,
    (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user),
    CASE WHEN rolsuper THEN -1 ELSE datconnlimit END,
    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename IS NOT NULL),
    current_user::text, current_database()::text
FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()
"""


@dataclass(frozen=True, slots=True)
class Limit:
    allowed: int
    used: int
    what: str  # that sets it
    advice: str


def _limits(alias: str) -> list[Limit]:
    most, reserved, used, of_role, by_role, of_database, in_database, role, database = row(alias, LIMITS)
    raise_it = f"ALTER SYSTEM SET max_connections = {most * 2}; and restart the server"
    found = [
        Limit(most - reserved, used, f"max_connections {most} less {reserved} reserved", raise_it),
        Limit(
            of_role,
            by_role,
            f"CONNECTION LIMIT of the role {role}",
            f"ALTER ROLE {identifier(role)} CONNECTION LIMIT -1;",
        ),
        Limit(
            of_database,
            in_database,
            f"CONNECTION LIMIT of the database {database}",
            f"ALTER DATABASE {identifier(database)} CONNECTION LIMIT -1;",
        ),
    ]
    return [limit for limit in found if limit.allowed >= 0]


def examine_use(alias: str) -> Iterator[Finding]:
    """D081: the connections are nearly used up now."""
    for limit in _limits(alias):
        part = limit.used / max(limit.allowed, 1)
        if part >= FULL_WARNING:
            yield Finding(
                id="D081",
                level=Level.ERROR if part >= FULL_ERROR else Level.WARNING,
                fact=f"{limit.used} of {counted(limit.allowed, 'connection')} are in use ({limit.what}).",
                advice=f"See whose they are: SELECT usename, application_name, count(*) FROM pg_stat_activity GROUP BY "
                f"1, 2 ORDER BY 3 DESC; lower the pools, or: {limit.advice}",
                data={"used": limit.used, "allowed": limit.allowed, "limit": limit.what},
            )


def examine_pools(alias: str) -> Iterator[Finding]:
    """D082: one process alone, or all of them together, may open more than there are. Behind a pooler they may."""
    if not is_direct(alias):
        return
    limit = min(_limits(alias), key=lambda each: each.allowed)
    of_web = of_a_process(alias) + web_threads(alias)
    processes, of_workers = _of_workers(alias)
    web = web_processes()
    wanted = of_web * web + of_workers
    if wanted <= limit.allowed:
        return
    parts = f"{counted(web, 'process', 'processes')} of the site {of_web} each"
    if processes:
        parts += f", {counted(processes, 'live worker')} {of_workers} together"
    yield Finding(
        id="D082",
        level=Level.ERROR if of_web > limit.allowed else Level.WARNING,
        fact=f"The pools may open {counted(wanted, 'connection')}, and the server allows {limit.allowed} "
        f"({limit.what}): {parts}.",
        advice='Lower OPTIONS["POOL_SIZE"] of CACHES, OPTIONS["pool"]["max_size"] of DATABASES, '
        f'PGONLY["LIMITS_POOL_SIZE"] or runworker --threads; put a pooler before the server; or: {limit.advice}',
        data={
            "wanted": wanted, "allowed": limit.allowed, "limit": limit.what, "web_processes": web,
            "of_a_web_process": of_web, "workers": processes, "of_workers": of_workers,
        },
    )  # fmt: skip


def of_a_process(alias: str) -> int:
    """The connections that our own pools in one process may open to this database."""
    sizes = {id(cache.store.pool): cache.store.pool for cache in our_caches().values()}
    of_caches = sum(pool.size for pool in sizes.values() if pool.alias == alias)
    has_limits = belongs_to(alias, Worker) and (settings().limiters or settings().budgets)
    return of_caches + (settings().limits_pool_size if has_limits else 0)


def web_threads(alias: str) -> int:
    """Django's own connections in a process of the site: its pool's, else one."""
    return _django_pool(alias) or SUPPOSED_THREADS


def _django_pool(alias: str) -> int | None:
    pool: Any = connections[alias].settings_dict["OPTIONS"].get("pool")
    if not pool:
        return None
    given = pool if isinstance(pool, dict) else {}
    return int(given.get("max_size") or given.get("min_size") or 4)  # psycopg_pool's own default


def web_processes(environ: Any = os.environ) -> int:
    """WEB_CONCURRENCY, which platforms set and gunicorn and uvicorn read; else 1, the least that there is."""
    given = environ.get("WEB_CONCURRENCY", "")
    return max(int(given), 1) if given.isascii() and given.isdigit() and len(given) < 5 else 1  # noqa: PLR2004 - digits


def _of_workers(alias: str) -> tuple[int, int]:
    """How many live workers there are that have connections, and what these may open together."""
    if not belongs_to(alias, Worker):
        return 0, 0
    with reading(alias):
        threads = list(
            Worker.objects.using(alias).live().filter(sleeping_since=None).values_list("threads", flat=True)
        )
    most = _django_pool(alias)
    others = OF_A_WORKER + (listen_alias(alias) != alias) + of_a_process(alias)
    return len(threads), sum(min(each, most or each) + others for each in threads)
