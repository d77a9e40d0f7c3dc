"""What this server leaves out of PostgreSQL, and what is lost by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import connections

from pgonly_django.cache.backend import our_caches
from pgonly_django.database.server_kind import HINT, REFUSED, ServerKind, kind_of
from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.listen import DIRECT
from pgonly_django.monitoring.doctor.our_tables import OUR_TABLES, parameters
from pgonly_django.monitoring.doctor.reading import is_direct, reading, rows
from pgonly_django.monitoring.doctor.words import named

DURABLE = 'CACHES[{caches}]["OPTIONS"]["DURABLE"] = True (docs/how-to/cache.md#options)'
SLEEP = "manage.py runworker --sleep-after 300 (docs/how-to/serverless.md)"
SUPABASE_POOLER, TRANSACTION_PORT = "pooler.supabase.com", "6543"
NEON_POOLER = "-pooler."


def server_of(alias: str) -> ServerKind:
    with reading(alias) as cursor:
        return kind_of(cursor)


def cockroach(alias: str, kind: ServerKind) -> Finding:
    """D010. Nothing else is looked at then."""
    return Finding(
        id="D010",
        level=Level.ERROR,
        fact=REFUSED.format(alias=alias),
        advice=HINT,
        subject="server",
        data={"version": kind.version},
    )


def examine_server(alias: str) -> Iterator[Finding]:
    """D011: Aurora. D012, D013: Neon. D014: Supabase. D015: YugabyteDB. D016: Citus."""
    kind = server_of(alias)
    if kind.is_aurora:
        yield _aurora(kind)
    if kind.is_neon:
        yield from _neon(alias, kind)
    if kind.is_supabase:
        yield _supabase(alias, kind)
    if kind.is_yugabyte:
        yield _yugabyte(kind)
    if kind.has_citus:
        yield _citus(kind)


def _host(alias: str) -> str:
    settings: dict[str, Any] = connections[alias].settings_dict
    return str(settings["HOST"] or settings["OPTIONS"].get("host", ""))


def _port(alias: str) -> str:
    settings: dict[str, Any] = connections[alias].settings_dict
    return str(settings["PORT"] or settings["OPTIONS"].get("port", ""))


def _aurora(kind: ServerKind) -> Finding:
    return Finding(
        id="D011",
        level=Level.INFO,
        fact="This is Aurora: UNLOGGED tables outlive a crash there, save less than elsewhere, and are to be read from "
        "the writer alone. With a minimum of 0 ACU (Serverless) it pauses while no client is connected: a worker "
        "is connected.",
        advice=f"Give every alias of jobs, cache and sessions the address of the writer. To let it pause: {SLEEP}",
        data={"version": kind.version},
    )


def _neon(alias: str, kind: ServerKind) -> Iterator[Finding]:
    yield Finding(
        id="D012",
        level=Level.INFO,
        fact="This is Neon: it suspends after 5 minutes without a query, ends all connections then, and forgets LISTEN "
        "and the statistics that autovacuum goes by.",
        advice=f"A worker that is awake keeps it awake. Switch scale to zero off, or let workers sleep, too: {SLEEP}",
        data={"version": kind.version, "pooler": NEON_POOLER in _host(alias)},
    )
    lost = _caches_unlogged(alias)
    if lost:
        yield Finding(
            id="D013",
            level=Level.WARNING,
            fact=f"Neon empties UNLOGGED tables whenever its compute restarts or suspends: the caches {named(lost)} "
            "are lost then.",
            advice=DURABLE.format(caches=repr(lost[0]) if len(lost) == 1 else "..."),
            data={"caches": lost},
        )


def _caches_unlogged(alias: str) -> list[str]:
    caches = our_caches().items()
    return sorted(
        name for name, cache in caches if cache.store.pool.alias == alias and not cache.store.durable
    )


def _supabase(alias: str, kind: ServerKind) -> Finding:
    host, port = _host(alias), _port(alias)
    is_transactions = host.endswith(SUPABASE_POOLER) and port == TRANSACTION_PORT
    where = f"DATABASES[{alias!r}] goes through its pooler in transaction mode (port 6543)"
    return Finding(
        id="D014",
        level=Level.INFO,
        fact="This is Supabase: "
        + (f"{where}, on which LISTEN hears nothing." if is_transactions else "its port 6543 is a pooler in "
           "transaction mode, on which LISTEN hears nothing; port 5432 is none, or one in session mode."),
        advice="Let LISTEN_DATABASE lead to port 5432." if is_transactions else "Stay with port 5432 for workers.",
        data={"version": kind.version, "host": host, "port": port},
    )  # fmt: skip


def _yugabyte(kind: ServerKind) -> Finding:
    listens = kind.yugabyte_listens == "on"
    return Finding(
        id="D015",
        level=Level.INFO if listens else Level.WARNING,
        fact="This is YugabyteDB, on which pgonly_django is not tested. "
        + ("LISTEN and NOTIFY are on." if listens else "It has no LISTEN and NOTIFY, or they are off: workers look for "
           "jobs every 2 s."),
        advice="Version 2025.2.3 and later: set the flag ysql_yb_enable_listen_notify=true on all TServers and "
        "Masters. What this page says of vacuum, bloat and wraparound does not apply: its storage is another one.",
        data={"version": kind.version, "yb_enable_listen_notify": kind.yugabyte_listens},
    )  # fmt: skip


def _citus(kind: ServerKind) -> Finding:
    return Finding(
        id="D016",
        level=Level.INFO,
        fact="This database has the extension Citus. Tables of pgonly_django must stay local tables of the "
        "coordinator: SELECT ... FOR UPDATE and recursive queries, as claims are, work within one shard only.",
        advice="Connect workers and sites to the coordinator, and distribute none of these tables.",
        data={"version": kind.version},
    )


DISTRIBUTED = f"""
WITH {OUR_TABLES}
SELECT schema, name FROM our_tables JOIN pg_dist_partition ON logicalrelid = our_tables.oid ORDER BY name
"""


def examine_distributed(alias: str) -> Iterator[Finding]:
    """D017: a table of ours is distributed by Citus."""
    if not server_of(alias).has_citus:
        return
    for schema, name in rows(alias, DISTRIBUTED, parameters()):
        yield Finding(
            id="D017",
            level=Level.ERROR,
            fact=f"Citus distributes the table {name}: claims and other statements fail on it.",
            advice=f"SELECT undistribute_table('{schema}.{name}');",
            data={"schema": schema, "table": name},
        )


def examine_pooler(alias: str) -> Iterator[Finding]:
    """D018: a pooler stands before the server."""
    if not is_direct(alias):
        yield Finding(
            id="D018",
            level=Level.INFO,
            fact=f"DATABASES[{alias!r}] goes through a pooler: no statement is prepared, workers set their settings in "
            "each transaction, and max_connections of the server is not what limits your processes.",
            advice=f"That works. For LISTEN see D061: {DIRECT}",
        )
