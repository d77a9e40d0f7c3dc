"""200,000 jobs of every kind, and what stands beside them, written by the server itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.db import connection

from pgonly_django.database.connect import connect
from tests.plans.found import OF_THE_QUEUE
from tests.queue.rows import insert_jobs

WORKER = UUID("00000000-0000-7000-8000-000000000001")
SILENT_WORKER = UUID("00000000-0000-7000-8000-000000000002")
FINISHED, FAILED, READY, SCHEDULED, RUNNING = 165_000, 5_000, 20_000, 9_000, 1_000
STOPPED_WORKERS = 1_000


def jobs(rows, state, **columns):
    common = {"queue": "'queue ' || n %% 7", "priority": "n %% 3", "lease_epoch": "1", "attempt": "1",
              "retention": "'7 days'", "ready_at": "clock_timestamp() - n * interval '1 ms'"}  # fmt: skip
    return insert_jobs(f"generate_series(1, {rows}) AS n", **{**common, "state": f"'{state}'", **columns})


def unique(until):
    """One job in ten has a unique key."""
    is_unique = "CASE WHEN n %% 10 = 0 THEN"
    return {
        "unique_key": f"{is_unique} '{until} ' || n END",
        "unique_while": f"{is_unique} '{until}' END",
        "unique_until": f"{is_unique} clock_timestamp() + (n %% 100 - 50) * interval '1 hour' END",
    }


def batch(number):
    """The id of the batch with this number, which is SQL."""
    return f"('00000000-0000-7000-9000-' || lpad(({number})::text, 12, '0'))::uuid"


KEYED = {"concurrency_limit": "1", "slots": "1"}
# One finished job in a hundred is due to be pruned; one running job in ten belongs to a silent worker.
KINDS = (
    jobs(
        "%(finished)s",
        "succeeded",
        delete_after="clock_timestamp() + (n %% 100 - 1) * interval '1 hour'",
        batch_id=f"CASE WHEN n %% 2 = 0 THEN {batch('n / 10')} END",
        **unique("retained"),
    ),
    # Of one in ten the dead letter is still to be sent.
    jobs(
        "%(failed)s",
        "failed",
        delete_after="clock_timestamp() + n * interval '1 hour'",
        dead_letter_queue="CASE n %% 3 WHEN 0 THEN 'grave' ELSE 'dead' END",
        dead_lettered_at="CASE n %% 10 WHEN 0 THEN NULL ELSE clock_timestamp() END",
        errors="""'[{"outcome": "failed", "exception": "builtins.ValueError"}]'""",
    ),
    jobs(
        "%(ready)s",
        "ready",
        **unique("unfinished"),
        batch_id=f"CASE WHEN n %% 4 = 0 THEN {batch('90000 + n / 500')} END",
    ),
    # 10,000 jobs of one key in front of 10 of another, and of many others; jobs without a key; a limited queue.
    jobs("10000", "ready", queue="'keyed'", priority="0", concurrency_key="'flood'", **KEYED),
    jobs("10", "ready", queue="'keyed'", priority="0", concurrency_key="'few'", **KEYED),
    jobs("1000", "ready", queue="'keyed'", priority="0", concurrency_key="'key ' || n %% 100", **KEYED),
    jobs("5000", "ready", queue="'keyed'", priority="0", slots="4"),
    jobs("5000", "ready", queue="'limited'", priority="0"),
    jobs("20", "ready", queue="'limited'", priority="0", crashes="2"),
    jobs(
        "100",
        "running",
        queue="'keyed'",
        worker_id="%(worker)s",
        lease_expires_at="clock_timestamp() + interval '1 hour'",
        concurrency_key="'key ' || n",
        **KEYED,
    ),
    jobs("%(scheduled)s", "scheduled", run_at="clock_timestamp() + (n %% 10 - 1) * interval '1 hour'"),
    jobs(
        "%(running)s",
        "running",
        worker_id="CASE n %% 10 WHEN 0 THEN %(silent)s ELSE %(worker)s END",
        lease_expires_at="clock_timestamp() + (n %% 10 - 0.5) * interval '1 hour'",
    ),
)
QUEUES = """
INSERT INTO pgonly_queue (name, max_running, rate_count, rate_seconds)
SELECT CASE n WHEN 1 THEN 'limited' ELSE 'another ' || n END, 50, 100, 60 FROM generate_series(1, 200) AS n;
INSERT INTO pgonly_queue_tokens (queue, tokens, refilled_at)
SELECT 'another ' || n, 1, clock_timestamp() FROM generate_series(2, 200) AS n
"""
WORKERS = """
INSERT INTO pgonly_worker (id, name, hostname, pid, queues, threads, running, version, heartbeat_at, started_at)
VALUES (%(worker)s, 'alive', 'host', 1, '[]', 8, 0, '1', clock_timestamp(), clock_timestamp()),
    (%(silent)s, 'silent', 'host', 2, '[]', 8, 0, '1', clock_timestamp() - interval '1 hour', clock_timestamp())
"""
STOPPED = """
INSERT INTO pgonly_worker (id, name, hostname, pid, queues, threads, running, version, heartbeat_at, started_at,
    stopped_at)
SELECT gen_random_uuid(), 'stopped', 'host', 3, '[]', 8, 0, '1', clock_timestamp(), clock_timestamp(),
    clock_timestamp()
FROM generate_series(1, %(stopped)s)
"""
# Every running job has five steps and a checkpoint, and so has one finished job in ten.
OF_JOBS = "SELECT id FROM pgonly_job WHERE state = 'running' OR state = 'succeeded' AND random() < 0.1"
CHECKPOINTS = f"""
INSERT INTO pgonly_checkpoint (job_id, value, positions, saved_at)
SELECT id, '1', '{{}}', clock_timestamp() FROM ({OF_JOBS}) AS job
"""
STEPS = """
INSERT INTO pgonly_step (job_id, name, result, finished_at)
SELECT job_id, 'step ' || n, '1', clock_timestamp() FROM pgonly_checkpoint, generate_series(1, 5) AS n
"""
OUTPUTS = """
INSERT INTO pgonly_job_output (job_id, part, place, start, text)
SELECT job_id, CASE n %% 2 WHEN 0 THEN '' ELSE 'step ' || n END, n, n, 'a'
FROM pgonly_checkpoint, generate_series(1, 5) AS n
"""
# All but the first 500 are delivered, and 1,000 are no longer kept. The first ones are those of scheduled jobs.
EVENTS = """
INSERT INTO pgonly_event (key, payload, sent_at, expires_at, is_delivered)
SELECT 'event ' || n, '1', clock_timestamp(), clock_timestamp() + (n %% 200 - 0.5) * interval '1 hour', n > 500
FROM generate_series(1, 200000) AS n
"""
WAITS = """
SET enable_nestloop = off;
INSERT INTO pgonly_wait (job_id, name, key, began_at, lease_epoch, choices, question, kept_key)
SELECT id, 'event', 'event ' || row_number() OVER (ORDER BY state = 'scheduled' DESC), clock_timestamp(), lease_epoch,
    '[]', '', CASE WHEN state = 'scheduled' THEN 'kept ' || row_number() OVER (ORDER BY id) END
FROM pgonly_job LEFT JOIN pgonly_checkpoint AS checkpoint ON checkpoint.job_id = id
WHERE state = 'scheduled' OR checkpoint.job_id IS NOT NULL;
RESET enable_nestloop
"""
# Finished batches, some with five members, of which a thousand are due to be pruned; open ones of 125; and open ones
# that are over.
BATCHES = f"""
INSERT INTO pgonly_batch (id, name, callbacks, sent, closes, created_at, finished_at, delete_after)
SELECT {batch("n + n / 90000 * 1000")}, '', '{{}}', '{{}}', 1, clock_timestamp(), clock_timestamp(),
    clock_timestamp() + (n - 1000) * interval '1 minute' FROM generate_series(0, 199999) AS n;
INSERT INTO pgonly_batch (id, name, callbacks, sent, closes, created_at, parent_id)
SELECT {batch("90000 + n")}, 'papers', '{{}}', '{{}}', 0, clock_timestamp(), id
FROM (SELECT id, row_number() OVER () - 1 AS n FROM pgonly_job WHERE state = 'running' LIMIT 61) AS parents
"""
# Three are due.
SCHEDULES = """
INSERT INTO pgonly_schedule (name, task, args, kwargs, timezone, every_seconds, catch_up, overlap, next_at)
SELECT 'schedule ' || n, 'tests.jobs.add', '[]', '{}', 'UTC', 3600, 'latest', 'skip',
    clock_timestamp() + (n - 3.5) * interval '1 minute'
FROM generate_series(1, 200000) AS n
"""
TICKS = """
INSERT INTO pgonly_tick (schedule_id, tick_at, outcome, reason, by_person, job_id)
SELECT 'schedule ' || n, clock_timestamp() - m * interval '1 hour', 'enqueued', '', false, gen_random_uuid()
FROM generate_series(1, 2000) AS n, generate_series(1, 101) AS m
"""
# Fifty tasks in each hour of five weeks, and in each minute of as many rows.
JOB_STATS = """
INSERT INTO pgonly_job_stats (granularity, starts_at, queue, task, succeeded, failed, retried, interrupted, crashed,
    waiting_times, run_times)
SELECT part.name, date_bin(part.width, clock_timestamp(), '2000-01-01') - n / 50 * part.width, 'queue ' || n %% 7,
    'tests.jobs.task_' || n %% 50, 10, 1, 1, 0, 0, '{0,5,5}', '{0,0,0,5,5}'
FROM (VALUES ('hour', interval '1 hour'), ('minute', interval '1 minute')) AS part(name, width),
    generate_series(1, CASE part.name WHEN 'hour' THEN 42000 ELSE 158000 END) AS n
"""


IS_SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
WITHOUT_INDEXES = """
UPDATE pg_index SET indisready = false, indisvalid = false
WHERE indrelid IN (SELECT oid FROM pg_class WHERE relname = ANY(%s))
"""


@contextmanager
def rows_before_indexes(cursor, *tables: str) -> Iterator[None]:
    """The indexes of these tables are built once all rows are there, and foreign keys are not looked at: a third of the
    CPU. Only a superuser may do so."""
    cursor.execute(IS_SUPERUSER)
    if not cursor.fetchone()[0]:
        yield
        return
    cursor.execute("SET session_replication_role = replica")
    cursor.execute(WITHOUT_INDEXES, [list(tables)])
    yield
    for table in tables:
        cursor.execute(f"REINDEX TABLE {table}")
    cursor.execute("RESET session_replication_role")


@contextmanager
def filled(blocker, tables: Sequence[str], fill: Callable[[Any], None]) -> Iterator[Any]:
    """A connection to these tables, which `fill` has filled and autovacuum leaves alone. They are emptied again."""
    names = ", ".join(tables)
    with blocker.unblock():
        with connection.cursor() as cursor:
            for table in tables:
                cursor.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
            fill(cursor)
        with connect("default", application_name="plans") as server:
            yield server
        with connection.cursor() as cursor:
            for table in tables:
                cursor.execute(f"ALTER TABLE {table} RESET (autovacuum_enabled)")
            cursor.execute(f"TRUNCATE {names} CASCADE")


def fill(cursor) -> None:
    with rows_before_indexes(cursor, *OF_THE_QUEUE):
        write_rows(cursor)


def write_rows(cursor) -> None:
    counts = {"finished": FINISHED, "failed": FAILED, "ready": READY, "scheduled": SCHEDULED, "running": RUNNING,
              "stopped": STOPPED_WORKERS}  # fmt: skip
    parameters = {**counts, "worker": WORKER, "silent": SILENT_WORKER}
    for statement in (
        *KINDS,
        QUEUES,
        WORKERS,
        STOPPED,
        CHECKPOINTS,
        STEPS,
        OUTPUTS,
        EVENTS,
        WAITS,
        BATCHES,
        SCHEDULES,
        TICKS,
        JOB_STATS,
    ):
        cursor.execute(statement, parameters)
