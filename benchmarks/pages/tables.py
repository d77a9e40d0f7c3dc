"""Fills the tables: the server itself makes the rows."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from benchmarks.pages.sizes import Sizes
from tests.queue.rows import insert_jobs

# 20 queues and 40 tasks; the newest job is of this second, the oldest is a week old.
AT = "clock_timestamp() - %(share)s * n * interval '7 days'"
# As uuid7() makes them: ordered by time.
ID = f"""(lpad(to_hex((extract(epoch FROM {AT}) * 1000)::bigint), 12, '0')
    || '7' || lpad(to_hex(n %% 4096), 3, '0') || '8' || substr(md5(n::text), 1, 15))::uuid"""
QUEUE, TASK = "'queue ' || n %% 20", "'shop.tasks.task_' || n %% 40"
WORKER = "md5('worker ' || n %% %(workers)s)::uuid"
# In every thousand jobs so many are of these states; the rest has succeeded.
FAILED, CANCELLED = 30, 5
ENTRY = """jsonb_build_object('outcome', 'failed', 'attempt', 1, 'worker', 'worker 1', 'worker_id', gen_random_uuid(),
    'started_at', clock_timestamp(), 'finished_at', clock_timestamp(),
    'exception', 'shop.errors.Error' || n %% 15, 'message', 'The server answered 503 to order ' || n,
    'traceback', repeat('  File "shop/tasks.py", line 12, in charge' || chr(10), 40))"""
FINISHED = {
    "lease_epoch": "1", "attempt": "1", "worker_id": WORKER, "retention": "'7 days'",
    "enqueued_at": AT, "ready_at": AT, "started_at": f"{AT} + interval '2 s'", "attempted_at": f"{AT} + interval '2 s'",
    "finished_at": f"{AT} + interval '5 s'", "delete_after": f"{AT} + interval '7 days'",
}  # fmt: skip
BATCH = "00000000-0000-7000-8000-000000000001"  # the newest scheduled job gathers every tenth of the finished ones
COMMON = {
    "id": ID, "queue": QUEUE, "task": TASK, "args": "jsonb_build_array(n, 'order ' || n)",
    "kwargs": "jsonb_build_object('customer', n %% 5000, 'api_key', md5(n::text))",
}  # fmt: skip
UNFINISHED = {"enqueued_at": AT, "ready_at": AT}
# Among those of the last week; the unfinished ones are the newest, as the first 2 % of the numbers.
NEWEST = "generate_series(1, %(jobs)s * 2 / 100) AS n"
OLDER = "generate_series(%(jobs)s * 2 / 100 + 1, %(jobs)s) AS n"
RUNNING = {
    "worker_id": WORKER, "lease_expires_at": "clock_timestamp() + interval '1 hour'", "lease_epoch": "1",
    "attempt": "1", "started_at": AT, "attempted_at": AT,
    "progress": """jsonb_build_object('done', n %% 100, 'total', 100, 'message', 'order ' || n)""",
}  # fmt: skip


def _jobs(rows: str, state: str, **columns: str) -> str:
    return insert_jobs(rows, **{**COMMON, "state": state, **columns})


OF_JOBS = (
    _jobs(
        OLDER, f"CASE WHEN n %% 1000 < {FAILED} THEN 'failed' WHEN n %% 1000 < {FAILED + CANCELLED} THEN 'cancelled' "
        "ELSE 'succeeded' END", errors=f"CASE WHEN n %% 1000 < {FAILED} THEN jsonb_build_array({ENTRY}) ELSE '[]' END",
        result="jsonb_build_object('sent', n)", batch_id=f"CASE WHEN n %% 10 = 5 THEN '{BATCH}'::uuid END", **FINISHED,
    ),
    _jobs(f"{NEWEST} WHERE n %% 100 < 2", "'running'", **UNFINISHED, **RUNNING),
    _jobs(f"{NEWEST} WHERE n %% 100 BETWEEN 2 AND 60", "'ready'", **UNFINISHED),
    _jobs(
        f"{NEWEST} WHERE n %% 100 BETWEEN 61 AND 70", "'ready'", concurrency_key="'customer ' || n %% 50",
        concurrency_limit="1", slots="1", **UNFINISHED,
    ),
    _jobs(
        f"{NEWEST} WHERE n %% 100 BETWEEN 71 AND 94", "'scheduled'", run_at="clock_timestamp() + n * interval '1 s'",
        **UNFINISHED,
    ),
    _jobs(
        f"{NEWEST} WHERE n %% 100 > 94", "'held'",
        held_by="CASE n %% 3 WHEN 0 THEN 'a person' ELSE 'budget:budget ' || n %% 10 END", **UNFINISHED,
    ),
)  # fmt: skip
OTHERS = (
    # Of the scheduled jobs each fourth asks a person, and the others wait for a program.
    """INSERT INTO pgonly_wait (job_id, name, key, began_at, lease_epoch, choices, question)
    SELECT id, 'event ' || id, id, ready_at, lease_epoch, CASE WHEN asks THEN '["yes", "no"]' ELSE '[]' END::jsonb,
        CASE WHEN asks THEN 'Pay order ' || id || '?' ELSE '' END
    FROM (SELECT id, ready_at, lease_epoch, (args ->> 0)::int %% 4 = 0 AS asks FROM pgonly_job
        WHERE state = 'scheduled') AS scheduled""",
    f"""INSERT INTO pgonly_batch (id, parent_id, name, size, callbacks, sent, closes)
    SELECT '{BATCH}', id, 'papers', %(jobs)s / 10, '{{}}', '{{}}', 0 FROM pgonly_job WHERE state = 'scheduled'
    ORDER BY id DESC LIMIT 1""",
    f"""UPDATE pgonly_wait SET name = 'event batch {BATCH} 1', key = 'batch {BATCH} 1', choices = '[]', question = ''
    WHERE job_id = (SELECT parent_id FROM pgonly_batch)""",
    """INSERT INTO pgonly_worker (id, name, hostname, pid, queues, threads, running, version, started_at, heartbeat_at)
    SELECT md5('worker ' || n)::uuid, 'worker ' || n, 'host-' || n %% 5, 1000 + n, '[]', 16, 10, '1',
        clock_timestamp() - interval '1 hour', clock_timestamp() + interval '1 hour'
    FROM generate_series(0, %(workers)s - 1) AS n""",
    """INSERT INTO pgonly_queue (name, max_running) SELECT 'queue ' || n, 50 FROM generate_series(0, 4) AS n""",
    """UPDATE pgonly_queue SET paused_at = clock_timestamp() WHERE name = 'queue 3'""",
    """INSERT INTO pgonly_budget (name, usd, per, timezone, spent, reserved, period_start)
    SELECT 'budget ' || n, 10, 'day', 'UTC', 9, 0, date_trunc('day', clock_timestamp(), 'UTC')
    FROM generate_series(0, 19) AS n""",
    # As many as jobs, over the 90 days for which they are kept.
    """INSERT INTO pgonly_cost (at, job_id, task, queue, budget, step, usd, tokens_in, tokens_out, model)
    SELECT clock_timestamp() - n * interval '90 days' / %(jobs)s, gen_random_uuid(), 'shop.tasks.task_' || n %% 40,
        'queue ' || n %% 20, 'budget ' || n %% 20, 'ask', 0.01, 1000, 100, 'model ' || n %% 3
    FROM generate_series(1, %(jobs)s) AS n""",
    """INSERT INTO pgonly_limiter (name, concurrent) SELECT 'limiter ' || n, 20 FROM generate_series(0, 9) AS n""",
    """INSERT INTO pgonly_limiter_slot (limiter, number, holder, who, taken_at, expires_at)
    SELECT 'limiter ' || n %% 10, n / 10 + 1, gen_random_uuid(), 'pid ' || n, clock_timestamp(),
        clock_timestamp() + interval '1 hour' FROM generate_series(0, 149) AS n""",
    """INSERT INTO pgonly_schedule (name, task, args, kwargs, timezone, every_seconds, catch_up, overlap, next_at)
    SELECT 'schedule ' || n, 'shop.tasks.task_' || n %% 40, '[]', '{}', 'UTC', 3600, 'latest', 'skip',
        clock_timestamp() + n * interval '1 minute' FROM generate_series(1, 100) AS n""",
    """INSERT INTO pgonly_tick (schedule_id, tick_at, outcome, reason, by_person)
    SELECT 'schedule ' || n, clock_timestamp() - m * interval '1 hour', 'enqueued', '', false
    FROM generate_series(1, 100) AS n, generate_series(1, 101) AS m""",
    """INSERT INTO pgonly_cache (key, value, codec, expires_at, prune_minute)
    SELECT ':1:page ' || n, convert_to(repeat(md5(n::text), 20), 'UTF8'), 1,
        clock_timestamp() + (n %% 50 - 2) * interval '1 hour',
        (extract(epoch FROM clock_timestamp()) / 60)::int + (n %% 50 - 2) * 60
    FROM generate_series(1, %(cache_rows)s) AS n""",
    """INSERT INTO pgonly_cache_durable (key, value, codec)
    SELECT 'answers::1:answer ' || n, convert_to('"' || md5(n::text) || '"', 'UTF8'), 2
    FROM generate_series(1, %(cache_rows)s / 10) AS n""",
    """INSERT INTO pgonly_session (key_hash, data, user_id, created_at, last_seen_at, expires_at, ip, user_agent)
    SELECT sha256(n::text::bytea), jsonb_build_object('basket', '[' || n || ']'),
        CASE WHEN n %% 3 < 2 THEN (n %% 20000)::text END, clock_timestamp() - n * interval '5 s',
        clock_timestamp() - n * interval '1 s', clock_timestamp() + (n %% 20 - 1) * interval '12 hours',
        ('10.0.' || n %% 200 || '.7')::inet, 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0'
    FROM generate_series(1, %(sessions)s) AS n""",
)
# A week of hours and three hours of minutes, of 40 tasks each.
STATS = """
INSERT INTO pgonly_job_stats (granularity, starts_at, queue, task, succeeded, failed, retried, interrupted, crashed,
    waiting_times, run_times)
SELECT kind, date_trunc(kind, clock_timestamp()) - back * ('1 ' || kind)::interval, 'queue ' || n %% 20,
    'shop.tasks.task_' || n, 90, 2, 5, 1, 0, buckets, buckets
FROM (VALUES ('hour', 168), ('minute', 180)) AS kinds(kind, many), generate_series(0, many) AS back,
    generate_series(0, 39) AS n,
    (SELECT array_agg((64 - b) / 2 ORDER BY b) AS buckets FROM generate_series(1, 64) AS b) AS histogram
"""


def fill(url: str, sizes: Sizes) -> None:
    """All tables, with the indexes in place, then VACUUM ANALYZE, as autovacuum leaves them."""
    facts: dict[str, Any] = {**vars(sizes), "share": 1 / sizes.jobs}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for statement in (*OF_JOBS, *OTHERS, STATS):
            began = time.monotonic()
            rows = connection.execute(statement, facts).rowcount
            print(
                f"{rows:>10,} rows of {statement.split()[2]:<22} {time.monotonic() - began:6.1f} s",
                flush=True,
            )
        connection.execute("VACUUM ANALYZE")
