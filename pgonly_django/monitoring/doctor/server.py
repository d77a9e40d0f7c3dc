"""The server: what it leaves out of PostgreSQL, and settings that change what our statements and your jobs do.

The connections that workers and caches open set what they need. Those of Django, on which sites enqueue and jobs run,
keep what the role, the database, the server or OPTIONS say; behind a pooler so do most of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import connections, transaction
from psycopg import IsolationLevel

from pgonly_django.database.server_kind import HINT, REFUSED, ServerKind, kind_of
from pgonly_django.monitoring.doctor.connections import DIRECT
from pgonly_django.monitoring.doctor.reading import is_direct, reading
from pgonly_django.monitoring.findings import Condition, Finding, Level, identifier
from pgonly_django.wording import duration

COCKROACH = Condition("D010", Level.ERROR, REFUSED, HINT)
SLEEP = "manage.py runworker --sleep-after 300 (docs/how-to/serverless.md)"
# By the name that ServerKind has for it.
SERVERS = {
    "is_aurora": Condition(
        "D011",
        Level.INFO,
        "This is Aurora: UNLOGGED tables outlive a crash there, save less than elsewhere, and are to be read from the "
        "writer alone. With a minimum of 0 ACU (Serverless) it pauses while no client is connected: a worker is "
        "connected.",
        f"Give every alias of jobs, cache and sessions the address of the writer. To let it pause: {SLEEP}",
    ),
    "is_neon": Condition(
        "D012",
        Level.INFO,
        "This is Neon: it suspends after 5 minutes without a query, ends all connections then, forgets LISTEN and the "
        "statistics that autovacuum goes by, and empties UNLOGGED tables, in which caches are without DURABLE.",
        f"A worker that is awake keeps it awake. Switch scale to zero off, or let workers sleep, too: {SLEEP} For a "
        'cache that must outlive it: CACHES[...]["OPTIONS"]["DURABLE"] = True (docs/how-to/cache.md#options)',
    ),
    "is_supabase": Condition(
        "D014",
        Level.INFO,
        "This is Supabase: its port 6543 is a pooler in transaction mode, on which LISTEN hears nothing; port 5432 is "
        "none, or one in session mode.",
        'Use port 5432 for workers, or let PGONLY["LISTEN_DATABASE"] lead there.',
    ),
    "is_yugabyte": Condition(
        "D015",
        Level.INFO,
        "This is YugabyteDB, on which pgonly_django is not tested. LISTEN and NOTIFY are off unless a flag is set: "
        "workers look for jobs every 2 s then.",
        "Version 2025.2.3 and later: set the flag ysql_yb_enable_listen_notify=true on all TServers and Masters. What "
        "this page says of vacuum, bloat and wraparound does not apply: its storage is another one.",
    ),
    "has_citus": Condition(
        "D016",
        Level.INFO,
        "This database has the extension Citus. Tables of pgonly_django must stay local tables of the coordinator: "
        "SELECT ... FOR UPDATE and recursive queries, as claims are, work within one shard only.",
        "Connect workers and sites to the coordinator, and distribute none of these tables: "
        "SELECT undistribute_table('pgonly_job');",
    ),
}
POOLER = Condition(
    "D018",
    Level.INFO,
    "DATABASES[{database!r}] goes through a pooler: no statement is prepared, workers set their settings in each "
    "transaction, and max_connections of the server is not what limits your processes.",
    f"That works. For LISTEN see D061: {DIRECT}",
)


def server_of(alias: str) -> ServerKind:
    with reading(alias) as cursor:
        return kind_of(cursor)


def kind(alias: str) -> Iterator[Finding]:
    """D011 to D016: a server that is not quite PostgreSQL."""
    found = server_of(alias)
    for name, condition in SERVERS.items():
        if getattr(found, name):
            yield condition.finding(version=found.version)


def pooler(alias: str) -> Iterator[Finding]:
    """D018: a pooler stands before the server."""
    if not is_direct(alias):
        yield POOLER.finding(database=alias)


SERIALIZED = "writes of jobs and unique enqueues that meet another one fail with a serialization error"


def _setting(
    id_: str, level: Level, why: str, wanted: str = "0", *, limit: float = 0
) -> tuple[Condition, str]:
    """And the value that the advice sets. A time below the `limit`, in seconds, is a warning."""
    fact = f"{{name}} is {{_shown}} for the role {{_role}} ({{_by}}): {why}."
    return Condition(id_, level, fact, "{_advice}", limit=limit), wanted


INFO, WARNING, ERROR = Level.INFO, Level.WARNING, Level.ERROR
# Limits of time. Below these they end what a healthy job does; above them they are shown only.
LIMITS = {
    "statement_timeout": _setting(
        "D131", INFO, "it cancels each statement of a job, and of an enqueue, that takes longer", limit=5
    ),
    "idle_in_transaction_session_timeout": _setting(
        "D132",
        INFO,
        "it ends a job that waits longer, inside a transaction, for something else",
        limit=60,
    ),
    "lock_timeout": _setting(
        "D133",
        INFO,
        "it cancels statements that wait longer for a row that another transaction writes",
        limit=1,
    ),
    "transaction_timeout": _setting(
        "D134",
        INFO,
        "it ends each transaction that takes longer: jobs with atomic=True run in one",
        limit=600,
    ),
}
LOSES_JOBS = _setting(
    "D135",
    WARNING,
    "a crash of the server loses jobs whose enqueue was acknowledged within the last second",
    "on",
)
WAITS_FOR_STANDBYS = _setting(
    "D135",
    INFO,
    "each enqueue and each end of a job waits until standbys have applied it",
    "on",
)
ISOLATED = _setting("D136", WARNING, SERIALIZED, "'read committed'")
# By the value that is found.
VALUES = {
    "synchronous_commit": {"off": LOSES_JOBS, "remote_apply": WAITS_FOR_STANDBYS},
    "default_transaction_isolation": {"repeatable read": ISOLATED, "serializable": ISOLATED},
    "default_transaction_read_only": {
        "on": _setting("D137", ERROR, "nothing can be enqueued, and no job can write", "off")
    },
}
# What workers set on connections of theirs, and cannot behind a pooler.
PLANS = {
    "jit": {
        "on": _setting(
            "D138",
            INFO,
            "behind a pooler claims of many rows may be compiled first, which takes longer than they do",
            "off",
        )
    },
    "plan_cache_mode": {
        value: _setting(
            "D138",
            INFO,
            "behind a pooler claims are planned each time, or by a plan for another size of the table",
            "auto",
        )
        for value in ("force_custom_plan", "force_generic_plan")
    },
}
ISOLATION_OPTION = Condition(
    "D136",
    WARNING,
    f'OPTIONS["isolation_level"] of DATABASES[{{_database!r}}] is {{value}}: {SERIALIZED}.',
    "Take it out, or give jobs and sessions an alias of their own without it.",
)
SOURCES = {
    "client": "by OPTIONS or PGOPTIONS", "session": "by the session", "user": "by ALTER ROLE",
    "database": "by ALTER DATABASE", "database user": "by ALTER ROLE ... IN DATABASE",
    "configuration file": "by the server's configuration", "default": "by default",
}  # fmt: skip
FOUND = """
SELECT name, setting, unit, source, current_user::text, current_database()::text FROM pg_settings
WHERE name = ANY (%s) ORDER BY name
"""


def settings(alias: str) -> Iterator[Finding]:
    """D131 to D138, as this role has the settings in this database. Not by reading(), which sets one of them."""
    values = VALUES if is_direct(alias) else VALUES | PLANS
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(FOUND, [[*LIMITS, *values]])
        found = cursor.fetchall()
    for name, value, unit, source, role, database in found:
        seconds = float(value) / 1000 if name in LIMITS else 0.0  # these are in ms
        row = LIMITS[name] if seconds else values.get(name, {}).get(value)
        if row is not None:
            condition, wanted = row
            yield condition.finding(
                level=WARNING if seconds < condition.limit else None,
                name=name,
                value=value,
                unit=unit,
                source=source,
                _shown=duration(seconds) if seconds else value,
                _role=role,
                _by=SOURCES.get(source, source),
                _advice=_how_to_change(name, wanted, source, role, database),
            )


def _how_to_change(name: str, wanted: str, source: str, role: str, database: str) -> str:
    """For this role alone, where that would win."""
    if source in ("client", "session"):
        return f'Take {name} out of OPTIONS["options"] in DATABASES (or out of PGOPTIONS).'
    where = f" IN DATABASE {identifier(database)}" if source == "database user" else ""
    begin = "SET default_transaction_read_only = off; " if name == "default_transaction_read_only" else ""
    return f"{begin}ALTER ROLE {identifier(role)}{where} SET {name} = {wanted}; and connect again."


def isolation_option(alias: str) -> Iterator[Finding]:
    """D136 again: as DATABASES sets it for the transactions of Django alone."""
    level: Any = connections[alias].settings_dict["OPTIONS"].get("isolation_level")
    if level is not None and level != IsolationLevel.READ_COMMITTED:
        value = IsolationLevel(level).name.replace("_", " ").lower()
        yield ISOLATION_OPTION.finding(name="isolation_level", value=value, source="OPTIONS", _database=alias)
