"""Finds transactions that hold vacuum back, and dead rows that stay: rows that an old transaction may still see cannot
be removed, and claims walk over them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.db import DatabaseError, OperationalError
from psycopg.errors import QueryCanceled

from pgonly_django.models import Job
from pgonly_django.monitoring.conditions import HOUR, MINUTE, OLD_SNAPSHOT, of_snapshots
from pgonly_django.monitoring.doctor.reading import (
    OUR_TABLES,
    TIME_LIMIT,
    belongs_to,
    by_sql,
    reading,
    rows,
)
from pgonly_django.monitoring.findings import Condition, Finding, Level
from pgonly_django.monitoring.snapshots import OldSnapshot, old_snapshots
from pgonly_django.queue.candidates import READY_ROW
from pgonly_django.queue.claim import BANDS_OF_ALL
from pgonly_django.tables import qualified

SHOWN_AT_MOST = 5


def sessions(alias: str) -> Iterator[Finding]:
    """D021: transactions that have been open for long."""
    return of_snapshots(_old_snapshots(alias), alias)


def _old_snapshots(alias: str) -> list[OldSnapshot]:
    """Returns them without their jobs where our tables are locked or missing: then it counts all the more which they
    are."""
    try:
        with reading(alias):
            return old_snapshots(alias, OLD_SNAPSHOT.limit, SHOWN_AT_MOST)
    except DatabaseError:
        with reading(alias):
            return old_snapshots(alias, OLD_SNAPSHOT.limit, SHOWN_AT_MOST, names_jobs=False)


LOCKED = Condition(
    "D025",
    Level.ERROR,
    "Process {pid} of the server ({_name}) {_has_it} for {seconds:time} now: {_query}",
    "{_end}",
    limit=2,
)
# Such a lock waits for all transactions that have used the table, and all others wait after it.
LOCKS = f"""
WITH {OUR_TABLES}
SELECT l.pid, t.name AS table, l.granted AS has_it,
    date_part('epoch', clock_timestamp() - coalesce(l.waitstart, a.xact_start)) AS seconds,
    pg_blocking_pids(l.pid) AS blocked_by, coalesce(nullif(a.application_name, ''), 'no application_name') AS _name,
    left(regexp_replace(coalesce(a.query, ''), '\\s+', ' ', 'g'), 120) AS _query
FROM our_tables AS t JOIN pg_locks AS l ON l.relation = t.oid AND l.mode = 'AccessExclusiveLock'
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND coalesce(l.waitstart, a.xact_start) < clock_timestamp() - make_interval(secs => %(limit)s)
ORDER BY seconds DESC LIMIT {SHOWN_AT_MOST}
"""


def locks(alias: str) -> Iterator[Finding]:
    """D025: a transaction has locked a table of ours, or waits for that with all others waiting after it."""
    for facts in rows(alias, LOCKS, {"limit": LOCKED.limit}):
        pid, table, blockers = facts["pid"], facts["table"], facts["blocked_by"]
        if facts["has_it"]:
            has_it = f"has locked {table},"
            end = f"End it: SELECT pg_terminate_backend({pid}); Later, try it again with SET lock_timeout = '2s'."
        else:
            others = ", ".join(map(str, blockers))
            has_it = f"waits for an exclusive lock of {table}, after {others}, and all others wait for it,"
            ends = " ".join(f"SELECT pg_terminate_backend({each});" for each in blockers)
            end = f"End it, SELECT pg_terminate_backend({pid}); or what it waits for: {ends}"
        yield LOCKED.finding(**{**facts, "_has_it": has_it, "_end": end})


PREPARED = Condition(
    "D022",
    Level.WARNING,
    "The prepared transaction {gid!r} of {owner} has waited for its end for {seconds:time}. It keeps its locks, and "
    "vacuum from removing dead rows, over every restart.",
    "Ask its transaction manager, or end it: ROLLBACK PREPARED {gid:literal};",
    limit=5 * MINUTE,
    error_from=HOUR,
)
prepared_transactions = by_sql(
    PREPARED,
    f"""
SELECT gid, owner::text AS owner, date_part('epoch', clock_timestamp() - prepared) AS seconds,
    age(transaction) AS transactions
FROM pg_prepared_xacts
WHERE database = current_database() AND prepared < clock_timestamp() - make_interval(secs => %(limit)s)
ORDER BY prepared LIMIT {SHOWN_AT_MOST}
""",
)
slots = by_sql(
    Condition(
        "D023",
        Level.WARNING,
        "Nothing reads from the {type} replication slot {slot!r}, which keeps {_wal} of WAL on the disk of the "
        "server{_dead_rows}.",
        "Start its standby or subscriber again, or drop it: SELECT pg_drop_replication_slot({slot:literal});",
        error_from=10 * 1024**3,  # disks of small servers have 20 GB
        measure="bytes",
    ),
    f"""
SELECT *, pg_size_pretty(bytes) AS _wal, CASE WHEN transactions > 0
    THEN ' and dead rows of the last ' || transactions || ' transactions' ELSE '' END AS _dead_rows
FROM (SELECT slot_name AS slot, slot_type AS type, coalesce(greatest(age(xmin), age(catalog_xmin)), 0) AS transactions,
    coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::int8 AS bytes
    FROM pg_replication_slots
    WHERE NOT active AND (restart_lsn IS NOT NULL OR xmin IS NOT NULL OR catalog_xmin IS NOT NULL)) AS slots
ORDER BY bytes DESC LIMIT {SHOWN_AT_MOST}
""",
)
# A view of the server's sessions. Without pg_read_all_stats the times of other roles are NULL.
hidden_sessions = by_sql(
    Condition(
        "D001",
        Level.INFO,
        "How long {sessions:n session} of other roles have a transaction open cannot be seen.",
        "GRANT pg_read_all_stats TO {role:sql};",
    ),
    """
SELECT count(*) AS sessions, current_user::text AS role FROM pg_stat_activity
WHERE xact_start IS NULL AND usename <> current_user AND datname = current_database()
HAVING count(*) > 0 AND NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
""",
)

RELOAD = "SELECT pg_reload_conf();"
autovacuum_is_off = by_sql(
    Condition(
        "D031",
        Level.ERROR,
        "{name} is off on this server, and autovacuum does nothing: dead rows stay forever, and each claim walks over "
        "more of them.",
        f"ALTER SYSTEM SET {{name}} = on; {RELOAD} Look for ALTER ROLE and ALTER DATABASE, too.",
    ),
    "SELECT name FROM pg_settings WHERE name IN ('autovacuum', 'track_counts') AND NOT setting::bool",
)
tables_without_autovacuum = by_sql(
    Condition(
        "D033",
        Level.ERROR,
        "Autovacuum is off for the table {table}: its dead rows stay forever.",
        "ALTER TABLE {schema:sql}.{table:sql} RESET (autovacuum_enabled);",
    ),
    f"""
WITH {OUR_TABLES}
SELECT name AS table, schema FROM our_tables CROSS JOIN LATERAL pg_options_to_table(options)
WHERE option_name = 'autovacuum_enabled' AND NOT option_value::bool ORDER BY name
""",
)


def _option(name: str) -> str:
    """Returns SQL for an option of the table, or else of the server."""
    return f"""coalesce((SELECT option_value FROM pg_options_to_table(t.options)
        WHERE option_name = '{name}'), current_setting('{name}'))::float8"""


# Twice as many dead rows as make autovacuum start, and no vacuum at work or since `limit`. Fewer rows do no harm. NULL
# for the seconds: not since the statistics were reset.
autovacuum_is_behind = by_sql(
    Condition(
        "D034",
        Level.WARNING,
        "Autovacuum is late: {table} has {dead_rows:n dead row} beside {live_rows:,} live ones. It should start at "
        "{starts_at:,}; the last vacuum was {last_vacuum_seconds_ago:ago}.",
        "VACUUM (ANALYZE, VERBOSE) {_schema:sql}.{table:sql}; and give autovacuum more to do at a time: "
        f"ALTER SYSTEM SET autovacuum_vacuum_cost_limit = 2000; {RELOAD}",
        limit=15 * MINUTE,
    ),
    f"""
WITH {OUR_TABLES}, counted AS (
    SELECT t.schema AS _schema, t.name AS table, n_dead_tup AS dead_rows, n_live_tup AS live_rows,
        ({_option("autovacuum_vacuum_threshold")} + {_option("autovacuum_vacuum_scale_factor")}
            * greatest(t.rows, n_live_tup, 0))::int8 AS starts_at,
        date_part('epoch', clock_timestamp() - greatest(last_vacuum, last_autovacuum)) AS last_vacuum_seconds_ago
    FROM our_tables AS t JOIN pg_stat_all_tables ON relid = t.oid
    WHERE NOT EXISTS (SELECT FROM pg_stat_progress_vacuum AS now
        WHERE now.datname = current_database() AND now.relid = t.oid)
)
SELECT * FROM counted
WHERE dead_rows >= greatest(2 * starts_at, 10000) AND coalesce(last_vacuum_seconds_ago, 'infinity') >= %(limit)s
ORDER BY dead_rows DESC
""",
)

# A look for the first job reads about 6 pages of each band. 1,000 take 1 ms in memory, 20,000 take 20.
LONG_WALK = Condition(
    "D035",
    Level.WARNING,
    "A look at the head of pgonly_job_ready, as claims take it, {_reads}: it walks over dead entries.",
    "End what holds vacuum back (D021-D023), then: {_table};",
    limit=1_000,
    error_from=20_000,
    measure="pages",
)
PAGE_BYTES, PAGES_OF_BAND = 8192, 10
# As a claim looks for the first job of each queue and priority. Index: pgonly_job_ready, one probe for each of them.
FIRST_JOBS = qualified(f"""
EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON)
WITH RECURSIVE bands(queue, priority) AS ({BANDS_OF_ALL.format(row=READY_ROW, bands="bands")})
SELECT first.id FROM bands CROSS JOIN LATERAL (
    SELECT id FROM pgonly_job WHERE {READY_ROW} AND queue = bands.queue AND priority = bands.priority
    ORDER BY ready_at, id LIMIT 1) AS first
""")
# A worker's connection has it, too.
BY_INDEX = "SELECT set_config('enable_seqscan', 'off', true)"


def claim(alias: str) -> Iterator[Finding]:
    """D035: how many pages a claim reads before it finds a job, over the dead entries of pgonly_job_ready."""
    if not belongs_to(alias, Job):
        return
    table = qualified("VACUUM (INDEX_CLEANUP ON) pgonly_job")
    try:
        pages, bands = _pages_of_a_look(alias)
    except OperationalError as error:
        if not isinstance(error.__cause__, QueryCanceled):
            raise
        reads = f"has found nothing after {TIME_LIMIT.total_seconds():g} s"
        yield LONG_WALK.finding(level=Level.ERROR, pages=None, _reads=reads, _table=table)
        return
    if pages >= LONG_WALK.limit + PAGES_OF_BAND * bands:
        reads = f"reads {pages:,} pages ({pages * PAGE_BYTES // 1024**2} MB) for {bands:,} jobs"
        yield LONG_WALK.finding(pages=pages, bands=bands, _reads=reads, _table=table)


def _pages_of_a_look(alias: str) -> tuple[int, int]:
    with reading(alias) as cursor:
        cursor.execute(BY_INDEX)
        cursor.execute(FIRST_JOBS)
        (found,) = cursor.fetchone()
    plan: dict[str, Any] = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], int(plan["Actual Rows"])


# From the age autovacuum_freeze_max_age on vacuum should be at work; at 2,146,000,000 the server stops.
old_rows = by_sql(
    Condition(
        "D036",
        Level.WARNING,
        "The oldest row was written {age:n transaction} ago. Vacuum freezes such rows from "
        "{autovacuum_freeze_max_age:,} on; at about 2.1 billion the server takes no more writes.",
        "End what holds vacuum back (D021-D023), then VACUUM (FREEZE, VERBOSE) {table}; and the next oldest until "
        "the age falls: SELECT oid::regclass, age(relfrozenxid) FROM pg_class WHERE relkind IN ('r', 'm') "
        "ORDER BY 2 DESC LIMIT 20;",
        limit=1.5,  # times that age
        error_from=1_500_000_000,
        measure="age",
    ),
    """
SELECT age, autovacuum_freeze_max_age, (
    SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'm')
    ORDER BY pg_catalog.age(relfrozenxid) DESC LIMIT 1) AS table
FROM (SELECT pg_catalog.age(datfrozenxid) AS age,
    current_setting('autovacuum_freeze_max_age')::int8 AS autovacuum_freeze_max_age
    FROM pg_database WHERE datname = current_database()) AS found
WHERE age >= least(%(limit)s::float8 * autovacuum_freeze_max_age, 1500000000)
""",
)

HOLDERS = (sessions, locks, prepared_transactions, slots, hidden_sessions)
DEAD_ROWS = (autovacuum_is_off, tables_without_autovacuum, autovacuum_is_behind, claim, old_rows)
