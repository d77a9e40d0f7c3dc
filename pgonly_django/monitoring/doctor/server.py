"""The server: what it leaves out of PostgreSQL, and settings that change what our statements and your jobs do.

The connections that workers and caches open set what they need. Those of Django, on which sites enqueue and jobs run,
keep what the role, the database, the server or OPTIONS say; behind a pooler so do most of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from django.db import NotSupportedError, connections, transaction
from psycopg import IsolationLevel

from pgonly_django import compat
from pgonly_django.database import server_kind
from pgonly_django.database.server_kind import HINT, NEWER, NEWER_HINT, REFUSED, ServerKind, kind_of
from pgonly_django.monitoring.doctor.reading import reading
from pgonly_django.monitoring.findings import Condition, Finding, Level, identifier
from pgonly_django.wording import duration

COCKROACH = Condition("D010", Level.ERROR, REFUSED, HINT)
NEWER_THAN_TESTED = Condition("D017", Level.INFO, NEWER, NEWER_HINT)
SLEEP = "manage.py runworker --sleep-after 300 (docs/how-to/serverless.md#sleep)"
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
        "SELECT undistribute_table('public.pgonly_job');",
    ),
}


def server_of(alias: str) -> ServerKind:
    """Returns the server. Raises django.db.Error."""
    try:
        with reading(alias) as cursor:
            return kind_of(cursor)
    except NotSupportedError:
        if server_kind.is_cockroach(alias):  # which Django refuses as an old PostgreSQL
            return ServerKind(server_kind.COCKROACH)
        raise


def kind(alias: str) -> Iterator[Finding]:
    """D010: CockroachDB. D011 to D016: a server that is not quite PostgreSQL. D017: a newer version than tested."""
    found = server_of(alias)
    if found.is_cockroach:
        yield COCKROACH.finding(alias=alias, version=found.version)
    for name, condition in SERVERS.items():
        if getattr(found, name):
            yield condition.finding(version=found.version)
    for facts in (*server_kind.newer_than_tested(found.version), *compat.newer_than_tested()):
        yield NEWER_THAN_TESTED.finding(**facts)


class Setting(NamedTuple):
    """A value that is worth reporting, or with a `limit` any time; a shorter one, in seconds, is a warning."""

    id: str
    name: str
    level: Level
    why: str
    wanted: str = "0"
    value: str = ""
    limit: float = 0.0


LOSES_JOBS = "a crash of the server loses jobs whose enqueue was acknowledged within the last second"
WAITS = "each enqueue and each end of a job waits until standbys have applied it"
SERIALIZED = "writes of jobs and unique enqueues that meet another one fail with a serialization error"
READ_ONLY = "nothing can be enqueued, and no job can write"
INFO, WARNING, ERROR = Level.INFO, Level.WARNING, Level.ERROR
COMMIT, ISOLATION = "synchronous_commit", "default_transaction_isolation"
SETTINGS = (
    Setting("D131", "statement_timeout", INFO,
            "it cancels each statement of a job, and of an enqueue, that takes longer", limit=5),
    Setting("D132", "idle_in_transaction_session_timeout", INFO,
            "it ends a job that waits longer, inside a transaction, for something else", limit=60),
    Setting("D133", "lock_timeout", INFO,
            "it cancels statements that wait longer for a row that another transaction writes", limit=1),
    Setting("D134", "transaction_timeout", INFO,
            "it ends each transaction that takes longer: jobs with atomic=True run in one", limit=600),
    Setting("D135", COMMIT, WARNING, LOSES_JOBS, "on", "off"),
    Setting("D135", COMMIT, INFO, WAITS, "on", "remote_apply"),
    Setting("D136", ISOLATION, WARNING, SERIALIZED, "'read committed'", "repeatable read"),
    Setting("D136", ISOLATION, WARNING, SERIALIZED, "'read committed'", "serializable"),
    Setting("D137", "default_transaction_read_only", ERROR, READ_ONLY, "off", "on"),
)  # fmt: skip
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
    """D131 to D137, as this role has the settings in this database. Not by reading(), which sets one of them."""
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(FOUND, [[setting.name for setting in SETTINGS]])
        found = cursor.fetchall()
    if level := connections[alias].settings_dict["OPTIONS"].get("isolation_level"):  # of Django's alone
        role, database = found[0][4:]
        value = IsolationLevel(level).name.replace("_", " ").lower()
        found.append((ISOLATION, value, None, "client", role, database))
    for name, value, unit, source, role, database in found:
        for setting in SETTINGS:
            if setting.name == name and (setting.value == value or (setting.limit and value != "0")):
                seconds = float(value) / 1000 if setting.limit else 0  # these are in ms
                fact = f"{name} is {duration(seconds) if seconds else value} for the role {role} "
                yield Finding(
                    id=setting.id,
                    level=WARNING if seconds < setting.limit else setting.level,
                    fact=f"{fact}({SOURCES.get(source, source)}): {setting.why}.",
                    advice=_how_to_change(setting, source, role, database),
                    data={"name": name, "value": value, "unit": unit, "source": source},
                )


def _how_to_change(setting: Setting, source: str, role: str, database: str) -> str:
    """Returns how to change it, for this role alone where that would win."""
    name = setting.name
    if source in ("client", "session"):
        return f"Take {name} out of OPTIONS in DATABASES (or out of PGOPTIONS)."
    where = f" IN DATABASE {identifier(database)}" if source == "database user" else ""
    begin = f"SET {name} = off; " if name == "default_transaction_read_only" else ""
    return f"{begin}ALTER ROLE {identifier(role)}{where} SET {name} = {setting.wanted}; and connect again."
