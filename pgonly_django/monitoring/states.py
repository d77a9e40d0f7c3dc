"""How many jobs are in each state."""

from __future__ import annotations

from typing import NamedTuple

from django.db import connections

from pgonly_django.models.job import State
from pgonly_django.models.job_rows import FINISHED_STATES, LIMITED_ROW, READY_ROW, SUSPECT_ROW
from pgonly_django.queue.claim import BANDS_OF_ALL
from pgonly_django.tables import qualified


class Counted(NamedTuple):
    """A number of rows that was counted up to a cap."""

    number: int
    has_more: bool = False  # there are more than `number`

    @property
    def label(self) -> str:
        """For people: "1,204", or "10,000+" where the cap ended it."""
        return f"{self.number:,}+" if self.has_more else f"{self.number:,}"


def capped(found: int, cap: int) -> Counted:
    """Of a statement that has counted one row beyond its cap where there was one."""
    return Counted(min(found, cap), has_more=found > cap)


COUNTED_AT_MOST = 10_000  # of each state
NEWEST = 2_000
_LIMIT = f"LIMIT {COUNTED_AT_MOST + 1}"
# With so many finished jobs there are more than COUNTED_AT_MOST of one state, or all of each were counted.
_FINISHED_LIMIT = f"LIMIT {3 * COUNTED_AT_MOST + 1}"


def _count_of(rows: str, limit: str = _LIMIT) -> str:
    return qualified(f"(SELECT count(*) FROM (SELECT FROM pgonly_job WHERE {rows} {limit}) AS counted)")


# Index: pgonly_job_scheduled, pgonly_job_ready, pgonly_job_suspect, pgonly_job_limited, pgonly_job_running,
# pgonly_job_held, pgonly_job_failed and pgonly_job_cancelled, of each 10,001 entries. Each is sorted as its index is,
# so that PostgreSQL takes that index without statistics too; held_by is set while a job is held. Jobs that succeeded
# have no index of their own: they are the finished ones without the others, 30,001 at most, by pgonly_job_finished or
# the first rows of the table. Where those others are too many to be counted, they are those among the newest 2,000.
STATES = qualified(f"""
WITH RECURSIVE limited_bands(queue, priority) AS ({BANDS_OF_ALL.format(row=LIMITED_ROW, bands="limited_bands")}),
counted AS MATERIALIZED (
    SELECT {_count_of("state = 'scheduled' ORDER BY run_at")} AS scheduled,
        {_count_of(f"{READY_ROW} ORDER BY queue, priority DESC, ready_at, id")}
        + {_count_of(f"{SUSPECT_ROW} ORDER BY ready_at")}
        + (SELECT count(*) FROM (SELECT FROM limited_bands AS band CROSS JOIN LATERAL (
            SELECT FROM pgonly_job WHERE {LIMITED_ROW} AND queue = band.queue AND priority = band.priority
            {_LIMIT}) AS of_band {_LIMIT}) AS limited) AS ready,
        {_count_of("state = 'running' ORDER BY queue")} AS running,
        {_count_of("held_by IS NOT NULL ORDER BY held_by, id")} AS held,
        {_count_of("state = 'failed' ORDER BY id")} AS failed,
        {_count_of("state = 'cancelled' ORDER BY id")} AS cancelled
)
SELECT *,
    CASE WHEN greatest(failed, cancelled) <= {COUNTED_AT_MOST} THEN
        {_count_of(f"state IN ({FINISHED_STATES})", _FINISHED_LIMIT)} - failed - cancelled
    ELSE (SELECT count(*) FILTER (WHERE state = 'succeeded') FROM (
        SELECT state FROM pgonly_job ORDER BY id DESC LIMIT {NEWEST}) AS newest) END AS succeeded,
    greatest(failed, cancelled) > {COUNTED_AT_MOST}
FROM counted
""")


def jobs_by_state(alias: str) -> dict[State, Counted]:
    """Of each state COUNTED_AT_MOST at most, in the order of a job's life. Of jobs that succeeded it may be too few,
    and `has_more` says so, where more than COUNTED_AT_MOST failed or were cancelled."""
    with connections[alias].cursor() as cursor:
        cursor.execute(STATES)
        names = [column.name for column in cursor.description]
        ((*numbers, is_sample),) = cursor.fetchall()
    found = {name: capped(number, COUNTED_AT_MOST) for name, number in zip(names, numbers, strict=False)}
    found["succeeded"] = found["succeeded"]._replace(has_more=found["succeeded"].has_more or is_sample)
    return {state: found[state.value] for state in State}
