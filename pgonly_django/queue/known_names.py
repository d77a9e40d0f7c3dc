"""Finds the queues, tasks and errors that there are, for people to choose from, without reading ten million rows."""

from __future__ import annotations

from django.db import connections

from pgonly_django.models.job_rows import LIMITED_ROW, READY_ROW, SUSPECT_ROW
from pgonly_django.tables import qualified


def _queues_of(name: str, jobs: str) -> str:
    """A loose scan: one index descent per queue, along an index of these `jobs` that begins with queue."""
    return qualified(f"""{name}(queue) AS (
    (SELECT queue FROM pgonly_job WHERE {jobs} ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT job.queue FROM pgonly_job AS job
            WHERE {jobs} AND job.queue > {name}.queue ORDER BY job.queue LIMIT 1)
    FROM {name} WHERE {name}.queue IS NOT NULL
)""")


# Queues with ready or running jobs by pgonly_job_ready, pgonly_job_limited and pgonly_job_running, those of suspects
# by pgonly_job_suspect. Others if the newest rows name them (primary key).
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

# The classes of the last errors of the newest failed jobs (pgonly_job_failed). Their errors may be long.
KNOWN_ERRORS = qualified("""
WITH recent AS (SELECT errors FROM pgonly_job WHERE state = 'failed' ORDER BY id DESC LIMIT 200)
SELECT DISTINCT left(errors -> -1 ->> 'exception', 255) AS error FROM recent ORDER BY error LIMIT 101
""")


def known_names(alias: str, statement: str) -> list[str]:
    """What one of the statements above finds."""
    with connections[alias].cursor() as cursor:
        cursor.execute(statement)
        return [name for (name,) in cursor.fetchall() if name is not None]


def queue_count(alias: str) -> int:
    """How many queues there are: with a row of their own, or found by KNOWN_QUEUES without its limit."""
    with connections[alias].cursor() as cursor:
        cursor.execute(COUNT_QUEUES)
        return int(cursor.fetchone()[0])
