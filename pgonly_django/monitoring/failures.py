"""Which jobs have failed since a time: grouped by task and error, for a person who decides what becomes of them."""

from __future__ import annotations

from typing import NamedTuple

from pgonly_django.database.on_django import all_rows
from pgonly_django.monitoring.queues import Counted
from pgonly_django.queue.health import FAILED_SAMPLE
from pgonly_django.tables import qualified

READ_AT_MOST = 500  # errors, which may be long

# Index: pgonly_job_failed, the newest 5,000. Of those that failed since then the errors are read, of 501 at most. A
# person who has discarded a job knows about it: that entry names no exception. Times are epochs, which compare the same
# whatever the time zone and USE_TZ are.
FAILED_SINCE = qualified(f"""
WITH recent AS (
    SELECT task, at, errors -> -1 AS error FROM (
        SELECT task, date_part('epoch', finished_at) AS at, errors FROM pgonly_job WHERE state = 'failed'
        ORDER BY id DESC LIMIT {FAILED_SAMPLE}) AS newest
    WHERE at > %(since)s::float8 AND at < 'infinity' LIMIT {READ_AT_MOST + 1}
)
SELECT task, left(coalesce(error ->> 'exception', error ->> 'outcome', ''), 255), count(*), max(at),
    greatest(date_part('epoch', clock_timestamp()) - max(at), 0), (SELECT count(*) FROM recent) > {READ_AT_MOST}
FROM recent WHERE error ->> 'exception' IS NOT NULL OR error ->> 'outcome' <> 'discarded'
GROUP BY 1, 2 ORDER BY 3 DESC, 4 DESC, 1, 2
""")


class FailedGroup(NamedTuple):
    task: str
    error: str  # as failed_with() takes it: the dotted path of the class, or "crashed" where the worker died
    jobs: Counted
    newest_at: float  # an epoch, by the database's clock
    newest_seconds: float  # ago


def failed_since(alias: str, since: float) -> list[FailedGroup]:
    """The jobs that failed after `since`, an epoch, and have not been retried: the largest group first. Reads at most
    500 jobs, of the 5,000 failed ones that were enqueued last."""
    return [
        FailedGroup(task, error, Counted(number, has_more), newest_at, seconds)
        for task, error, number, newest_at, seconds, has_more in all_rows(
            alias, FAILED_SINCE, {"since": since}
        )
    ]
