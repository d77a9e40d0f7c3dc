"""The INSERT of unique jobs. The index pgonly_job_unique decides which job has a key, and nothing else does.

Of two transactions that insert the same key the second waits for the first. If that commits, its job is the winner; if
it rolls back, the job of the second is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from pgonly_django.compat import new_ids
from pgonly_django.database import notify
from pgonly_django.database.on_django import first_row, repeat_after_conflict
from pgonly_django.database.statement import Params, Statement
from pgonly_django.exceptions import UniqueKeyError
from pgonly_django.queue.carried import CARRIED_COLUMNS, JSON_CARRIED, LATEST
from pgonly_django.queue.enqueue import (
    CALL_COLUMNS,
    EPOCH,
    NEW_COLUMNS,
    NEW_VALUES,
    READY_OR_SCHEDULED,
    TEMPLATE_COLUMNS,
    NewJob,
    Unique,
    as_text,
    running_job,
)
from pgonly_django.tables import qualified

if TYPE_CHECKING:
    from pgonly_django.models import Job

# The number of jobs that may take a key and finish, one after the other, between the INSERT and the look for the one
# that has it; and the number of conflicts in a row if a statement is its own transaction.
TRIES = 100
# The limits of one statement. Its parameter may have 1 GB.
JOBS_AT_ONCE, CHARACTERS_AT_ONCE = 1000, 100_000_000

_COLUMNS = [name for name in (*TEMPLATE_COLUMNS, *CALL_COLUMNS, *CARRIED_COLUMNS) if name != "run_at"]
_REPLACED = (*CALL_COLUMNS, *LATEST)
_JSON = ("args", "kwargs", "options", *JSON_CARRIED)
# Index: pgonly_job_unique, the primary key. `expired` gives up the keys whose period is over, before any row is
# inserted; their rows are locked in the order of the keys, and inserted in that order too, so that two batches do not
# wait for each other. The times are the same for all rows: a batch keeps its order by the ids.
INSERT_UNIQUE = qualified(f"""
WITH wanted AS MATERIALIZED (SELECT * FROM json_populate_recordset(NULL::pgonly_job, %(jobs)s::json)),
moment AS MATERIALIZED (SELECT clock_timestamp() AS now),
expired AS MATERIALIZED (
    SELECT id FROM pgonly_job
    WHERE unique_key = ANY (ARRAY (SELECT unique_key FROM wanted)) AND {{unique_row}}
        AND unique_until < clock_timestamp()
    ORDER BY unique_key FOR NO KEY UPDATE
),
freed AS (UPDATE pgonly_job SET unique_key = NULL WHERE id = ANY (ARRAY (SELECT id FROM expired)) RETURNING id),
written AS (
    INSERT INTO pgonly_job AS job (id, args, kwargs, {", ".join(_COLUMNS)}, run_at, state, ready_at, enqueued_at,
        unique_key, unique_while, unique_until, {NEW_COLUMNS})
    SELECT id, args, kwargs, {", ".join(_COLUMNS)}, due.run_at, {READY_OR_SCHEDULED.format(run_at="due.run_at")},
        now, now, unique_key, unique_while, now + %(period)s::interval, {NEW_VALUES}
    FROM wanted CROSS JOIN moment CROSS JOIN (SELECT count(*) FROM freed) AS all_freed
    CROSS JOIN LATERAL (SELECT greatest(wanted.run_at, now + %(debounce)s::interval) AS run_at) AS due
    ORDER BY unique_key
    ON CONFLICT (unique_key) WHERE {{unique_row}} DO {{otherwise}}
    RETURNING id, unique_key, enqueued_at
)
SELECT coalesce(json_agg(json_build_array(
    unique_key, id, (extract(epoch FROM enqueued_at) * 1000000)::int8)), '[]')::text FROM written
""")
# A job that was claimed is not changed: it is not in the index any more, or, where its key counts for longer, it stays
# as it is. A held one stays held. What it carries stays that of the call which made the row, except LATEST.
REPLACE = f"""UPDATE SET args = excluded.args, kwargs = excluded.kwargs, run_at = excluded.run_at,
        {", ".join(f"{name} = excluded.{name}" for name in _REPLACED)},
        state = CASE job.state WHEN 'held' THEN 'held' ELSE excluded.state END
    WHERE job.lease_epoch = 0 AND job.state IN ('scheduled', 'ready', 'held')"""


class Enqueued(NamedTuple):
    """The result of a call: `job` is what was written into the row of this id, which a debounced call may have found
    there; or `winner` is the row that has the key, and nothing was written."""

    id: str
    enqueued_at: datetime
    is_duplicate: bool
    job: NewJob | None
    winner: Job | None = None

    @property
    def payloads(self) -> tuple[str, ...]:
        """The notifications that wake workers for what was written."""
        if self.job is None:
            return ()
        is_debounced = _unique(self.job).debounce is not None
        return (notify.DUE,) if is_debounced else self.job.payloads(self.enqueued_at)


def insert_unique(alias: str, jobs: Sequence[NewJob]) -> list[Enqueued]:
    """Writes those `jobs`, all of them unique, whose key no other job has, in the caller's transaction; in order. Waits
    for other transactions that have inserted one of the keys. In a transaction at REPEATABLE READ or SERIALIZABLE such
    a conflict is a serialization failure (OperationalError), as always.
    """
    # Where the statement was its own transaction, another one sees what the winner has committed.
    return repeat_after_conflict(alias, lambda: _insert_unique(alias, jobs), tries=TRIES)


def _insert_unique(alias: str, jobs: Sequence[NewJob]) -> list[Enqueued]:
    ids = new_ids(len(jobs))
    places: dict[str, list[int]] = {}
    for place, job in enumerate(jobs):
        places.setdefault(_unique(job).key, []).append(place)
    # One row for each key: that of its first call, with the arguments of the last call if later calls replace them.
    rows = {key: (ids[of[0]], _merged(jobs[of[0]], jobs[of[-1]])) for key, of in places.items()}
    found: dict[str, Enqueued] = {}
    for _ in range(TRIES):
        for batch in _batches([row for key, row in rows.items() if key not in found]):
            found |= _write(alias, batch)
        if missing := [key for key in rows if key not in found]:
            found |= _winners(alias, missing)
        if len(found) == len(rows):
            results = [found[_unique(job).key] for job in jobs]
            first = {of[0] for of in places.values()}
            return [
                each if n in first else each._replace(is_duplicate=True) for n, each in enumerate(results)
            ]
    raise UniqueKeyError(next(key for key in rows if key not in found))


def _unique(job: NewJob) -> Unique:
    assert job.unique is not None
    return job.unique


def _merged(first: NewJob, last: NewJob) -> NewJob:
    if _unique(last).debounce is None:
        return first
    more = {name: value for name, value in (last.more or {}).items() if name in _REPLACED}
    more |= {name: value for name, value in (first.more or {}).items() if name not in _REPLACED}
    return last._replace(template=first.template, more=more)


RowToInsert = tuple[str, NewJob]


def _batches(rows: Sequence[RowToInsert]) -> Iterator[list[RowToInsert]]:
    """Yields the jobs of one period and debounce together, in an order that is the same in every process."""
    same: dict[tuple[str, str], list[RowToInsert]] = {}
    for row in rows:
        unique = _unique(row[1])
        same.setdefault((repr(unique.period), repr(unique.debounce)), []).append(row)
    for _, batch in sorted(same.items()):
        batch.sort(key=lambda row: _unique(row[1]).key)
        start, length = 0, 0
        for place, (_, job) in enumerate(batch):
            length += len(job.args) + len(job.kwargs)
            if place - start == JOBS_AT_ONCE or (length > CHARACTERS_AT_ONCE and place > start):
                yield batch[start:place]
                start, length = place, len(job.args) + len(job.kwargs)
        yield batch[start:]


def _write(alias: str, batch: Sequence[RowToInsert]) -> dict[str, Enqueued]:
    """Returns, by their keys, the jobs that are in a row now."""
    by_key = {_unique(job).key: (job_id, job) for job_id, job in batch}
    answer = first_row(alias, *statement(batch))
    assert answer is not None
    written = {}
    for key, job_id, microseconds in json.loads(answer[0]):
        own_id, job = by_key[key]
        enqueued_at = EPOCH + timedelta(microseconds=microseconds)
        written[key] = Enqueued(job_id, enqueued_at, is_duplicate=job_id != own_id, job=job)
    return written


def statement(batch: Sequence[RowToInsert]) -> tuple[Statement, Params]:
    """Returns a statement that writes the jobs whose keys are free. All have the same period and debounce."""
    unique, rows = _unique(batch[0][1]), ",".join(_json_of(job_id, job) for job_id, job in batch)
    params = {"jobs": f"[{rows}]", "period": unique.period, "debounce": unique.debounce}
    return _statement(replaces=unique.debounce is not None), params


@cache
def _statement(*, replaces: bool) -> Statement:
    from pgonly_django.models.job_rows import UNIQUE_ROW
    from pgonly_django.queue.candidates import condition_of

    otherwise = REPLACE if replaces else "NOTHING"
    return Statement(INSERT_UNIQUE.format(unique_row=condition_of(UNIQUE_ROW), otherwise=otherwise))


def _json_of(job_id: str, job: NewJob) -> str:
    """Returns the row as a JSON object, of which some values are JSON already."""
    unique = _unique(job)
    values = {name: getattr(job.template, name) for name in TEMPLATE_COLUMNS}
    values |= {"id": job_id, "args": job.args, "kwargs": job.kwargs, **running_job(), **(job.more or {})}
    values |= {"unique_key": unique.key, "unique_while": unique.until}
    texts = [f'"{name}": {text}' for name in _JSON if (text := values.pop(name, None))]
    scalars = json.dumps(values, default=as_text, ensure_ascii=False)
    return f"{scalars[:-1]}, {', '.join(texts)}}}"


def _winners(alias: str, keys: list[str]) -> dict[str, Enqueued]:
    """Returns, by their keys, the rows that have them now. A row may have given its key up since the INSERT met it."""
    from pgonly_django.models.job import Job
    from pgonly_django.models.job_rows import UNIQUE_ROW

    rows = Job.objects.using(alias).filter(UNIQUE_ROW, unique_key__in=keys)
    return {
        str(row.unique_key): Enqueued(str(row.pk), row.enqueued_at, is_duplicate=True, job=None, winner=row)
        for row in rows
    }
