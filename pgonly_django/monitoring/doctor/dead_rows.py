"""Dead rows of our tables: whether autovacuum removes them, and what a claim pays for those that are left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.db import OperationalError
from psycopg.errors import QueryCanceled

from pgonly_django.models import Job
from pgonly_django.models.job import READY_ROW
from pgonly_django.monitoring.doctor import reading
from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.our_tables import OUR_TABLES, belongs_to, parameters
from pgonly_django.monitoring.doctor.words import MINUTE, counted, identifier, size
from pgonly_django.queue.claim import BANDS_OF_ALL
from pgonly_django.tables import qualified
from pgonly_django.wording import duration

BEHIND_ROWS = 10_000  # fewer do no harm
BEHIND_SECONDS = 15 * MINUTE
BEHIND_TIMES = 2  # as many as make autovacuum start
PAGE_BYTES = 8192
# A look for the first job reads about 6 pages of each band. 1,000 take 1 ms in memory, 20,000 take 20.
WALK_PAGES, WALK_ERROR_PAGES, PAGES_OF_BAND = 1_000, 20_000, 10
# From the age autovacuum_freeze_max_age on vacuum should be at work; at 2,146,000,000 the server stops.
FREEZE_LATE_TIMES = 1.5
FREEZE_ERROR_AGE = 1_500_000_000

RELOAD = "SELECT pg_reload_conf();"
SERVER = "SELECT current_setting('autovacuum')::bool, current_setting('track_counts')::bool"


def examine_server(alias: str) -> Iterator[Finding]:
    """D031: autovacuum is off. D032: it does not count what there is to do."""
    is_on, counts = reading.row(alias, SERVER)
    if not is_on:
        yield Finding(
            id="D031",
            level=Level.ERROR,
            fact="Autovacuum is off on this server: dead rows stay for ever, and each claim walks over more of them.",
            advice=f"ALTER SYSTEM SET autovacuum = on; {RELOAD}",
            data={"autovacuum": "off"},
        )
    if not counts:
        yield Finding(
            id="D032",
            level=Level.ERROR,
            fact="track_counts is off: autovacuum does not learn which tables have dead rows, and leaves them.",
            advice=f"ALTER SYSTEM SET track_counts = on; {RELOAD} Look for ALTER ROLE and ALTER DATABASE, too.",
            data={"track_counts": "off"},
        )


SWITCHED_OFF = f"""
WITH {OUR_TABLES}
SELECT schema, name FROM our_tables CROSS JOIN LATERAL pg_options_to_table(options)
WHERE option_name = 'autovacuum_enabled' AND NOT option_value::bool ORDER BY name
"""


def examine_tables(alias: str) -> Iterator[Finding]:
    """D033: autovacuum is off for a table."""
    for schema, name in reading.rows(alias, SWITCHED_OFF, parameters()):
        yield Finding(
            id="D033",
            level=Level.ERROR,
            fact=f"Autovacuum is off for the table {name}: its dead rows stay for ever.",
            advice=f"ALTER TABLE {identifier(schema, name)} RESET (autovacuum_enabled);",
            data={"table": name, "schema": schema},
        )


def _option(name: str) -> str:
    """SQL: of the table, else of the server."""
    return f"""coalesce((SELECT option_value FROM pg_options_to_table(t.options)
        WHERE option_name = '{name}'), current_setting('{name}'))::float8"""


# NULL for the seconds: not since the statistics were reset.
BEHIND = f"""
WITH {OUR_TABLES}, counted AS (
    SELECT t.schema, t.name, n_dead_tup AS dead, n_live_tup AS live,
        {_option("autovacuum_vacuum_threshold")}
            + {_option("autovacuum_vacuum_scale_factor")} * greatest(t.rows, n_live_tup, 0) AS starts_at,
        date_part('epoch', clock_timestamp() - greatest(last_vacuum, last_autovacuum)) AS seconds
    FROM our_tables AS t JOIN pg_stat_all_tables ON relid = t.oid
    WHERE NOT EXISTS (SELECT FROM pg_stat_progress_vacuum AS now
        WHERE now.datname = current_database() AND now.relid = t.oid)
)
SELECT schema, name, dead, live, starts_at::int8, seconds FROM counted
WHERE dead >= greatest(%(times)s * starts_at, %(rows)s) AND coalesce(seconds, 'infinity') >= %(seconds)s
ORDER BY dead DESC
"""


def examine_autovacuum(alias: str) -> Iterator[Finding]:
    """D034: autovacuum should have been at a table, and was not."""
    limits = parameters(times=BEHIND_TIMES, rows=BEHIND_ROWS, seconds=BEHIND_SECONDS)
    for schema, name, dead, live, starts_at, seconds in reading.rows(alias, BEHIND, limits):
        since = "never" if seconds is None else f"{duration(seconds)} ago"
        yield Finding(
            id="D034",
            level=Level.WARNING,
            fact=f"Autovacuum is behind: {name} has {counted(dead, 'dead row')} beside {live:,} live ones. It should "
            f"start at {starts_at:,}; the last vacuum was {since}.",
            advice=f"VACUUM (ANALYZE, VERBOSE) {identifier(schema, name)}; and give autovacuum more to do at a time: "
            f"ALTER SYSTEM SET autovacuum_vacuum_cost_limit = 2000; {RELOAD}",
            data={
                "table": name, "dead_rows": dead, "live_rows": live, "starts_at": starts_at,
                "last_vacuum_seconds_ago": seconds,
            },
        )  # fmt: skip


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


def examine_claim(alias: str) -> Iterator[Finding]:
    """D035: how many pages a claim reads before it finds a job, over the dead entries of pgonly_job_ready."""
    if not belongs_to(alias, Job):
        return
    try:
        pages, bands = _pages_of_a_look(alias)
    except OperationalError as error:
        if not isinstance(error.__cause__, QueryCanceled):
            raise
        limit = reading.TIME_LIMIT.total_seconds()
        yield _walk(Level.ERROR, f"has found nothing after {limit:g} s", {"pages": None})
        return
    if pages >= WALK_PAGES + PAGES_OF_BAND * bands:
        level = Level.ERROR if pages >= WALK_ERROR_PAGES else Level.WARNING
        read = f"reads {counted(pages, 'page')} ({size(pages * PAGE_BYTES)}) for {counted(bands, 'job')}"
        yield _walk(level, read, {"pages": pages, "bands": bands})


def _pages_of_a_look(alias: str) -> tuple[int, int]:
    with reading.reading(alias) as cursor:
        cursor.execute(BY_INDEX)
        cursor.execute(FIRST_JOBS)
        (found,) = cursor.fetchone()
    plan: dict[str, Any] = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], int(plan["Actual Rows"])


def _walk(level: Level, read: str, data: dict[str, Any]) -> Finding:
    return Finding(
        id="D035",
        level=level,
        fact=f"A look at the head of pgonly_job_ready, as claims take it, {read}: it walks over dead entries.",
        advice="End what holds vacuum back (D021 to D024), then: "
        f"{qualified('VACUUM (INDEX_CLEANUP ON) pgonly_job')};",
        data={"index": "pgonly_job_ready", **data},
    )


FROZEN = """
SELECT age(datfrozenxid), current_setting('autovacuum_freeze_max_age')::int8, (
    SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'm') ORDER BY age(relfrozenxid) DESC LIMIT 1)
FROM pg_database WHERE datname = current_database()
"""


def examine_wraparound(alias: str) -> Iterator[Finding]:
    """D036: the oldest transaction id is too old."""
    age, starts_at, table = reading.row(alias, FROZEN)
    if age < min(starts_at * FREEZE_LATE_TIMES, FREEZE_ERROR_AGE):
        return
    yield Finding(
        id="D036",
        level=Level.ERROR if age >= FREEZE_ERROR_AGE else Level.WARNING,
        fact=f"The oldest row was written {counted(age, 'transaction')} ago. Vacuum freezes such rows from "
        f"{starts_at:,} on; at about 2.1 billion the server takes no more writes.",
        advice=f"End what holds vacuum back (D021 to D024), then VACUUM (FREEZE, VERBOSE) {table}; and the next oldest "
        "until the age falls: SELECT oid::regclass, age(relfrozenxid) FROM pg_class WHERE relkind IN ('r', 'm') "
        "ORDER BY 2 DESC LIMIT 20;",
        data={"age": age, "autovacuum_freeze_max_age": starts_at, "table": table},
    )
