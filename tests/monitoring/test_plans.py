"""Every statement of monitoring/ reads a bounded number of rows, by an index, of tables with 200,000 rows."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import psycopg
import pytest
from django.db import connection

from pgonly_django.cache.entry import CACHE_TABLES as CACHE_TABLES
from pgonly_django.database.connect import connect
from pgonly_django.models.budget import HELD_BY
from pgonly_django.monitoring import limits, progress, queues, runs, storage, waiting
from pgonly_django.queue import health
from tests.guards import refuse
from tests.plans.found import OF_THE_QUEUE, found, shown, sql_of, where
from tests.plans.table import rows_before_indexes, write_rows
from tests.plans.test_plans import explain, rows_read, walk
from tests.plans.test_tables import ENTRIES, HELD_JOBS, SESSIONS
from tests.queue.rows import HOUR

pytestmark = pytest.mark.django_db

OTHERS = ["pgonly_session", *CACHE_TABLES]
ALL = ", ".join([*OF_THE_QUEUE, *OTHERS])
CAP = queues.OF_A_STATE_AT_MOST + 1
OF_STATES = {f"pgonly_job_{name}" for name in (
    "scheduled", "ready", "suspect", "limited", "running", "held", "failed", "cancelled")}  # fmt: skip
OF_WAITING = {"pgonly_job_ready", "pgonly_job_limited", "pgonly_job_suspect", "pgonly_job_scheduled"}
SMALL = {"pgonly_queue", "pgonly_cache_usage"}
STATS = {"pgonly_job_stats_once"}
OF_A_JOB = {"priority": 0, "ready_at": partial(datetime.now, UTC), "id": uuid4()}
OF_AN_HOUR = {
    "length": "1 min",
    "granularity": "minute",
    "since": lambda: time.time() - HOUR.total_seconds(),
    "queue": "",
}
# The statement, its parameters, the indexes that it uses, and how many rows it may read.
STATEMENTS = {
    # The rows of a node are counted at each of its parents that scans it again.
    "monitoring.queues.STATES": (queues.STATES, {}, OF_STATES, 12 * CAP),
    "monitoring.queues.COUNTS": (
        queues.COUNTS,
        {"queues": ["queue 1", "keyed", "limited", "none"]},
        OF_WAITING | {"pgonly_job_running"},
        4 * 5 * 1001,
    ),
    "queue.health.OLDEST_PER_QUEUE": (health.OLDEST_PER_QUEUE, {}, OF_WAITING, 6000),
    "monitoring.runs.ENDED": (
        runs.ENDED,
        OF_AN_HOUR,
        STATS,
        61 * 50,
    ),
    "monitoring.runs.ENDED_AND_WAITED": (
        runs.ENDED_AND_WAITED,
        {**OF_AN_HOUR, "queue": "queue 1"},
        STATS,
        61 * 50,
    ),
    "monitoring.runs.FAILED_SINCE": (
        runs.FAILED_SINCE,
        {"since": 0.0},
        {"pgonly_job_failed"},
        2 * 5_000 + 3 * 501,  # where it sorts a bitmap of so few: their entries and their rows
    ),
    "monitoring.runs.RETRIED": (
        runs.RETRIED,
        {"failures": 3, "outcomes": ["failed"]},
        {"pgonly_job_scheduled", "pgonly_wait_once"},
        3 * 5_000,  # where it sorts a bitmap of so few: their entries and their rows
    ),
    "monitoring.runs.FAILED": (runs.FAILED, {}, STATS, 2 * 60 * 50 + 50),
    "monitoring.runs.HISTOGRAMS": (
        runs.HISTOGRAMS,
        {"granularity": "minute", "within": "1 hour", "queue": ""},
        STATS,
        62 * 50 * 3,
    ),
    # Fifty rows an hour, of two days and of one; and 24 descents for each of 100 pairs.
    "monitoring.runs.RUNS": (runs.RUNS, {}, STATS, 3 * 49 * 50 + 3 * 25 * 50 + 100 * 24 * 5),
    "monitoring.waiting.AHEAD": (
        waiting.AHEAD,
        {"queue": "queue 1", **OF_A_JOB},
        {"pgonly_job_ready"},
        6 * 1001,
    ),
    "monitoring.waiting.AHEAD_OF_KEY": (
        waiting.AHEAD_OF_KEY,
        {"queue": "keyed", "key": "key 1", **OF_A_JOB},
        {"pgonly_job_limited"},
        3 * 1001,
    ),
    "monitoring.progress.COUNT_MEMBERS": (
        progress.COUNT_MEMBERS,
        {"ids": ["00000000-0000-7000-9000-000000090000"]},
        {"pgonly_job_batch"},
        2 * 126,
    ),
    "monitoring.limits.HOLDING": (limits.HOLDING, {"first": HELD_BY}, {"pgonly_job_held"}, 100),
    "monitoring.limits.HELD_JOBS": (
        limits.HELD_JOBS,
        {"holders": ["budget:p1", "budget:p2", "budget:none"]},
        {"pgonly_job_held"},
        3 * 3 * 10_001,
    ),
    "monitoring.storage.ACTIVE": (storage.ACTIVE, {}, {"pgonly_session_expires"}, 3 * 5_001),
    **{
        f"monitoring.storage.FIGURES, {table}": (
            sql,
            {"start": "k", "end": "l", "name": "n", "most": 5_001},
            {f"{table}_pkey"},
            5_002,
        )
        for table, sql in zip(CACHE_TABLES, storage.FIGURES, strict=True)
    },
}


@pytest.fixture(scope="module")
def big_tables(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        with connection.cursor() as cursor:
            with rows_before_indexes(cursor, *OF_THE_QUEUE, *OTHERS):
                write_rows(cursor)
                for statement in (SESSIONS, HELD_JOBS, *(ENTRIES.format(table) for table in CACHE_TABLES)):
                    cursor.execute(statement)
            cursor.execute("VACUUM ANALYZE pgonly_job")
            cursor.execute(f"ANALYZE {ALL}")
        yield
        with connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {ALL} CASCADE")


@pytest.fixture(scope="module", params=["warm", "cold"])
def server(request, big_tables, django_db_blocker):
    with django_db_blocker.unblock(), connect("default", application_name="monitoring") as raw:
        if request.param == "cold":
            raw.execute("DELETE FROM pg_statistic WHERE starelid = 'pgonly_job'::regclass")
        yield raw


@pytest.mark.slow
def test_each_statement_keeps_to_its_indexes_and_its_cap(server: psycopg.Connection):
    """One test for all of them, since the tables take longer to fill than the statements to be asked about."""
    refuse(
        (line for name in STATEMENTS for line in wrong_with(server, name)),
        "Change the statement so that it reads no more than its cap by an index, or STATEMENTS in this file, "
        "tests/monitoring/test_plans.py, where the plan is as good.",
    )


def wrong_with(server, name):
    sql, parameters, indexes, cap = STATEMENTS[name]
    # Times are taken now: the tests are collected long before.
    parameters = {key: value() if callable(value) else value for key, value in parameters.items()}
    nodes = list(walk(explain(server, sql, parameters, "force_custom_plan")))
    used = {node["Index Name"] for node in nodes if "Index Name" in node}
    read_whole = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}
    # Finished jobs are counted wherever the table has them, and no further than the cap.
    read_whole -= SMALL | ({"pgonly_job"} if name == "monitoring.queues.STATES" else set())
    optional = {"pgonly_cache_usage_pkey", "pgonly_job_finished", "pgonly_job_pkey"}
    rows = sum(map(rows_read, nodes))
    wrong = [
        *(f"{name} reads the whole of {table}" for table in read_whole),
        *(f"{name} does not use the index {index}" for index in indexes - used),
        *(f"{name} uses the index {index}" for index in used - indexes - optional),
        *([f"{name} reads {rows} rows, {cap} are allowed"] if rows > cap else []),
    ]
    return [*wrong, shown(nodes)] if wrong else []


def test_every_statement_is_asked_about():
    texts = {sql for sql, *_ in STATEMENTS.values()}
    left = {
        name for name, each in found().items() if name.startswith("monitoring.") and sql_of(each) not in texts
    }
    left -= {"monitoring.storage.FIGURES"}  # one for each table
    refuse(
        [f"{where(name)} has no plan" for name in sorted(left)],
        "Add it to STATEMENTS in tests/monitoring/test_plans.py: its parameters, its indexes, and how many rows it "
        "reads.",
    )
