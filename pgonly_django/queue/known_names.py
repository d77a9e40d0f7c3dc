"""The names in stored jobs: queues, tasks and errors, for people to choose from, without reading ten million rows; and
the calls of the unfinished ones, for `check --deploy`, which asks whether the code can still run them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import Connection, errors

from pgonly_django.database.connect import connect
from pgonly_django.database.on_django import all_rows
from pgonly_django.queue.candidates import LIMITED_ROW, READY_ROW, SUSPECT_ROW
from pgonly_django.tables import qualified


def _queues_of(name: str, jobs: str) -> str:
    """Returns a loose scan: one index descent per queue, along an index of these `jobs` that begins with queue."""
    return qualified(f"""{name}(queue) AS (
    (SELECT queue FROM pgonly_job WHERE {jobs} ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT job.queue FROM pgonly_job AS job
            WHERE {jobs} AND job.queue > {name}.queue ORDER BY job.queue LIMIT 1)
    FROM {name} WHERE {name}.queue IS NOT NULL
)""")


# Queues with ready or running jobs by pgonly_job_ready, pgonly_job_limited and pgonly_job_running, queues with suspects
# by pgonly_job_suspect, and others if the newest rows name them (primary key).
_ALL_QUEUES = qualified(f"""
WITH RECURSIVE {_queues_of("ready", READY_ROW)}, {_queues_of("running", "state = 'running'")},
{_queues_of("limited", LIMITED_ROW)},
suspect AS (SELECT queue FROM pgonly_job WHERE {SUSPECT_ROW} LIMIT 1000),
recent AS (SELECT queue FROM pgonly_job ORDER BY id DESC LIMIT 1000)
SELECT queue FROM ready UNION SELECT queue FROM running UNION SELECT queue FROM limited
UNION SELECT queue FROM suspect UNION SELECT queue FROM recent
""")
KNOWN_QUEUES = f"{_ALL_QUEUES} ORDER BY queue LIMIT 101"
COUNT_QUEUES = qualified(
    f"SELECT count(queue) FROM ({_ALL_QUEUES} UNION SELECT name FROM pgonly_queue) AS queues"
)

# The tasks of the newest rows (primary key) and of what runs now (pgonly_job_running), however old.
KNOWN_TASKS = qualified("""
WITH recent AS (SELECT task FROM pgonly_job ORDER BY id DESC LIMIT 1000),
running AS (SELECT task FROM pgonly_job WHERE state = 'running' LIMIT 1000)
SELECT task FROM recent UNION SELECT task FROM running
ORDER BY task LIMIT 101
""")

# The errors of the jobs that failed last (pgonly_job_failed), as failed_with() takes them. They may be long.
KNOWN_ERRORS = qualified("""
WITH recent AS (SELECT errors FROM pgonly_job WHERE state = 'failed' ORDER BY finished_at DESC, id DESC LIMIT 200)
SELECT DISTINCT left(coalesce(errors -> -1 ->> 'exception', errors -> -1 ->> 'outcome'), 255) AS error
FROM recent ORDER BY error LIMIT 101
""")

# By the names of the filters of the list in the admin, which most flags of pgonly_jobs have too.
KNOWN = {"queue": KNOWN_QUEUES, "task": KNOWN_TASKS, "error": KNOWN_ERRORS}


def known_names(alias: str, statement: str) -> list[str]:
    """Returns the names that one of the statements above finds."""
    return [name for (name,) in all_rows(alias, statement) if name is not None]


def queue_count(alias: str) -> int:
    """Returns the number of queues: those that have a row, or are found by KNOWN_QUEUES without its limit."""
    ((count,),) = all_rows(alias, COUNT_QUEUES)
    return int(count)


TIMEOUT_SECONDS = 10
# The number of rows of each index that are looked at, if a look at all of them takes longer than this.
SAMPLE = 20_000
# Calls of a task with the same number of arguments and the same names are of one kind.
KINDS_AT_MOST = 1000

UNFINISHED_ROWS = (READY_ROW, SUSPECT_ROW, LIMITED_ROW, "state = 'scheduled'", "state = 'running'",
              "state = 'held' AND held_by IS NOT NULL")  # fmt: skip
_ROWS = " UNION ALL ".join(
    qualified(
        f"(SELECT task, backend, options, args, kwargs, then_job FROM pgonly_job WHERE {rows} LIMIT %(limit)s)"
    )
    for rows in UNFINISHED_ROWS
)
# Index: one for each of UNFINISHED_ROWS: pgonly_job_ready, _suspect, _limited, _scheduled, _running and _held. All of
# these rows are read, and none of the finished ones. The keys of a JSONB object have their own order. The job that
# follows one of them (tasks/bound.py) is a call, too.
STORED_CALLS = qualified(f"""
WITH unfinished AS ({_ROWS})
SELECT call.task, call.backend,
    CASE jsonb_typeof(call.options -> 'backoff') WHEN 'string' THEN call.options ->> 'backoff' END AS backoff,
    jsonb_array_length(call.args) AS positional, ARRAY(SELECT jsonb_object_keys(call.kwargs)) AS names,
    count(*) AS jobs
FROM unfinished AS job CROSS JOIN LATERAL (
    SELECT job.task::text, job.backend::text, job.options, job.args, job.kwargs
    UNION ALL
    SELECT then_job ->> 'task', then_job ->> 'backend', NULL, then_job -> 'args', then_job -> 'kwargs'
    WHERE then_job IS NOT NULL
) AS call(task, backend, options, args, kwargs)
GROUP BY 1, 2, 3, 4, 5 ORDER BY jobs DESC, task LIMIT %(kinds)s
""")

# For the transaction: behind a pooler others use the connection too. Where most jobs of a big table are unfinished,
# PostgreSQL would rather read the whole of it, once for each index.
SETTINGS = (
    "SELECT set_config('statement_timeout', %(timeout)s, true), set_config('lock_timeout', '2s', true), "
    "set_config('enable_seqscan', 'off', true)"
)


@dataclass(frozen=True, slots=True)
class StoredCall:
    """A kind of call that `jobs` make: with this number of positional arguments, and keyword arguments of these names.
    `backoff`: the dotted path of their backoff, if they have one."""

    task: str
    backend: str
    backoff: str | None
    positional: int
    names: list[str]
    jobs: int


@dataclass(frozen=True, slots=True)
class StoredCalls:
    """The most frequent calls first. `left_out` says in words which jobs were not looked at; "" where all were."""

    calls: list[StoredCall]
    left_out: str = ""


def stored_calls(alias: str) -> StoredCalls:
    """Counts the calls of unfinished jobs. Takes about 20 s at most, after it has connected. Raises psycopg.Error."""
    with connect(alias, application_name="pgonly check") as connection:
        try:
            calls = _look(connection, limit=None)
        except errors.QueryCanceled:
            calls = _look(connection, limit=SAMPLE)
            reason = f"a look at all took longer than {TIMEOUT_SECONDS} s"
            return StoredCalls(calls, f"{reason}, so it was at most {SAMPLE:,} jobs of each state")
    if len(calls) > KINDS_AT_MOST:
        return StoredCalls(calls[:KINDS_AT_MOST], f"they are of more than {KINDS_AT_MOST:,} kinds")
    return StoredCalls(calls)


def _look(connection: Connection[Any], limit: int | None) -> list[StoredCall]:
    with connection.transaction():
        connection.execute(SETTINGS, {"timeout": f"{TIMEOUT_SECONDS}s"})
        rows = connection.execute(STORED_CALLS, {"limit": limit, "kinds": KINDS_AT_MOST + 1})
        return [StoredCall(*row) for row in rows]
