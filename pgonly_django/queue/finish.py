"""Writes the ends of runs: one statement for a whole batch, each row fenced by its lease.

A job that has begun keeps its place, so that a long job that was stopped does not wait for all the jobs enqueued after
it: a release, a wait, a hold and a rescue leave `ready_at` alone. After an error and a postponement it keeps its place
only if it has saved a step, a position or a checkpoint; after a Snooze that it raised itself it goes to the end.
Otherwise a job that always fails, or one that polls, would come before all others again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from pgonly_django.database.statement import Params, Statement
from pgonly_django.models.job import State
from pgonly_django.models.job_rows import DELETE_AFTER, EARLIER_ERRORS, FAILED_DELETE_AFTER, LOG_LINES_KEPT
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.checkpoints import NOTHING_NEW_SAVED
from pgonly_django.tables import qualified

KEEP_PLACE = (Outcome.RELEASED, Outcome.WAITING)


@dataclass(slots=True)
class Finish:
    """One fenced write: the state after the run, its result or its entry for the errors. Not frozen: every run makes
    one, and a frozen one takes four times as long."""

    id: str
    lease_epoch: int
    outcome: Outcome
    state: State
    delay_seconds: float | None = None  # until run_at, when the state is SCHEDULED
    result: str | None = None  # JSON
    entry: str | None = None  # JSON, one attempt for the job's errors
    costs_attempt: bool = True
    started: bool = True  # False: it was claimed ahead and never began
    held_by: str | None = None  # what holds it, when the state is HELD
    polls: bool = False  # it raised Snooze itself

    @property
    def moves_back(self) -> int:
        """Whether the job goes to the end of its queue: 0, no; 1, unless it has saved something; 2, always."""
        goes_on = self.state in (State.READY, State.SCHEDULED) and self.outcome not in KEEP_PLACE
        return goes_on + self.polls


# Index, of both statements: the primary key; for suspects also those of SAVED. "state || ''" keeps the planner from
# pgonly_job_running: under an old snapshot the dead entries of that index pile up, and every finish would walk over
# them.

# The states after which a job is not over.
GOES_ON = "'ready', 'scheduled', 'held'"

# The common case is lean: jobs of one lease_epoch are found by `= ANY` at half the cost of a join (9 instead of 15 us a
# job). Their ids are the text of one array: to encode a list takes ten times as long. Their results are one JSON object
# by id; a job that is not in it has none.
SUCCEED = qualified(f"""
UPDATE pgonly_job AS job SET state = 'succeeded', lease_expires_at = NULL, crashes = 0,
    result = %(results)s::jsonb -> job.id::text, finished_at = clock_timestamp(),
    delete_after = {DELETE_AFTER}
WHERE job.id = ANY ({{ids}}) AND job.lease_epoch = %(lease_epoch)s::int AND job.state || '' = 'running'
""")

# Index: the primary keys. A scalar subquery probes them once for each row; EXISTS may read all steps into a hash.
HAS_SAVED = qualified("""coalesce((SELECT true FROM pgonly_step AS saved WHERE saved.job_id = job.id LIMIT 1),
        (SELECT true FROM pgonly_checkpoint AS saved WHERE saved.job_id = job.id), false)""")

# A job that was asked to cancel does not wait again, and is not held. The errors keep only the last of attempts in a
# row that were postponed, or retried without counting. A claim sets attempted_at, and started_at if it is the first
# one, within microseconds: the started_at of a claim whose run did not begin is taken back.
FINISH = qualified(f"""
UPDATE pgonly_job AS job SET
    state = CASE WHEN job.cancel_requested_at IS NOT NULL AND ended.state IN ({GOES_ON})
        THEN 'cancelled' ELSE ended.state END,
    held_by = CASE WHEN job.cancel_requested_at IS NULL THEN ended.held_by END,
    run_at = CASE ended.state WHEN 'scheduled' THEN clock_timestamp() + make_interval(secs => ended.delay)
        WHEN 'held' THEN CASE WHEN job.run_at <= clock_timestamp() THEN job.run_at END
        ELSE job.run_at END,
    ready_at = CASE WHEN ended.moves_back = 2 OR ended.moves_back = 1 AND NOT {HAS_SAVED} THEN clock_timestamp()
        ELSE job.ready_at END,
    ready_again_at = CASE WHEN ended.interrupted = 1 OR ended.moves_back > 0 THEN clock_timestamp()
        ELSE job.ready_again_at END,
    lease_expires_at = NULL,
    started_at = CASE WHEN ended.began OR job.attempted_at - job.started_at > interval '100 us'
        THEN job.started_at END,
    attempt = job.attempt - ended.uncounted,
    interruptions = job.interruptions + ended.interrupted,
    crashes = CASE WHEN ended.stays_suspect = 1 AND job.crashes > 0 AND {NOTHING_NEW_SAVED}
        THEN job.crashes ELSE 0 END,
    errors = CASE WHEN ended.entry IS NULL THEN job.errors ELSE
        (CASE WHEN job.errors -> -1 ->> 'outcome' = 'postponed' AND ended.entry::jsonb ->> 'outcome' = 'postponed'
                OR job.errors -> -1 ->> 'in_a_row' IS NOT NULL AND (ended.entry::jsonb ->> 'in_a_row')::int > 1
            THEN job.errors - (-1)
            ELSE {EARLIER_ERRORS} END)
            || (ended.entry::jsonb || jsonb_build_object(
                'attempt', job.attempt, 'started_at', job.attempted_at, 'finished_at', clock_timestamp())) END,
    finished_at = CASE WHEN ended.state IN ({GOES_ON}) AND job.cancel_requested_at IS NULL
        THEN NULL ELSE clock_timestamp() END,
    delete_after = CASE WHEN ended.state IN ({GOES_ON}) AND job.cancel_requested_at IS NULL
        THEN NULL WHEN ended.state = 'failed' THEN {FAILED_DELETE_AFTER} ELSE {DELETE_AFTER} END
FROM unnest(%(ids)s::uuid[], %(lease_epochs)s::int[], %(states)s::text[], %(delays)s::float8[], %(uncounted)s::int[],
    %(interrupted)s::int[], %(move_back)s::int[], %(began)s::bool[], %(stay_suspect)s::int[], %(entries)s::text[],
    %(holders)s::text[]) AS ended(id, lease_epoch, state, delay, uncounted, interrupted, moves_back, began,
        stays_suspect, entry, held_by)
WHERE job.id = ended.id {{and_unlocked}}AND job.lease_epoch = ended.lease_epoch AND job.state || '' = 'running'
RETURNING job.id::text, job.state
""")

# The same statements without the rows that another transaction has locked. They lock each row before they update it,
# which costs 1 us a job: a worker uses them for a while after it has met such a lock.
UNLOCKED = qualified("""ARRAY (
    SELECT held.id FROM pgonly_job AS held WHERE held.id = ANY ({ids}) AND held.state || '' = 'running'
    FOR NO KEY UPDATE SKIP LOCKED)""")
TEXT, LIST = "%(ids)s::text::uuid[]", "%(ids)s::uuid[]"
BLOCKING = Statement(SUCCEED.format(ids=TEXT)), Statement(FINISH.format(and_unlocked=""))
SKIPPING = (
    Statement(SUCCEED.format(ids=UNLOCKED.format(ids=TEXT))),
    Statement(FINISH.format(and_unlocked=f"AND job.id = ANY ({UNLOCKED.format(ids=LIST)}) ")),
)

# Characters of the results in one statement: JSONB holds 256 MB, and a message of 1 GB breaks the connection.
RESULTS_AT_MOST = 60_000_000


def finish_statements(
    batch: Iterable[Finish], *, skip_locked: bool = False
) -> list[tuple[Statement, Params]]:
    """Returns the statements that write `batch`. A row that none matches has another run by now, or was skipped."""
    succeeded: dict[int, list[Finish]] = {}
    others: list[Finish] = []
    for finish in batch:
        if finish.state is State.SUCCEEDED:
            succeeded.setdefault(finish.lease_epoch, []).append(finish)
        else:
            others.append(finish)
    succeed, end = SKIPPING if skip_locked else BLOCKING
    successes = [each for lease_epoch, part in succeeded.items() for each in _successes(lease_epoch, part)]
    statements = [(succeed, parameters) for parameters in successes]
    return [*statements, (end, _finish_parameters(others))] if others else statements


def _successes(lease_epoch: int, batch: Sequence[Finish]) -> list[Params]:
    """Returns the parameters of one statement, or of several where all results together would break the connection."""
    results = [f'"{finish.id}":{finish.result}' for finish in batch if finish.result not in (None, "null")]
    by_id = ",".join(results)
    if len(by_id) > RESULTS_AT_MOST and len(batch) > 1:
        middle = len(batch) // 2
        return _successes(lease_epoch, batch[:middle]) + _successes(lease_epoch, batch[middle:])
    # No id needs quotes.
    ids = ",".join([finish.id for finish in batch])
    return [{"ids": f"{{{ids}}}", "lease_epoch": lease_epoch, "results": f"{{{by_id}}}"}]


def _finish_parameters(batch: Sequence[Finish]) -> Params:
    return {
        "ids": [finish.id for finish in batch],
        "lease_epochs": [finish.lease_epoch for finish in batch],
        "states": [finish.state.value for finish in batch],
        "delays": [finish.delay_seconds for finish in batch],
        "uncounted": [int(not finish.costs_attempt) for finish in batch],
        "interrupted": [int(finish.started and finish.outcome is Outcome.RELEASED) for finish in batch],
        "move_back": [finish.moves_back for finish in batch],
        "began": [finish.started and finish.outcome.has_run for finish in batch],
        # These runs do not show that the job spares its worker.
        "stay_suspect": [
            int(finish.outcome is Outcome.RELEASED or not finish.outcome.has_run) for finish in batch
        ],
        "entries": [finish.entry for finish in batch],
        "holders": [finish.held_by for finish in batch],
    }


# Index: the primary key.
WHOSE = qualified("SELECT id::text, lease_epoch, state FROM pgonly_job WHERE id = ANY (%(ids)s::uuid[])")


def whose(connection: psycopg.Connection[Any], ids: list[str]) -> dict[str, tuple[int, str]]:
    """Returns (lease_epoch, state) of the rows that a finish did not match."""
    rows = connection.execute(WHOSE, {"ids": ids}).fetchall()
    return {job_id: (lease_epoch, state) for job_id, lease_epoch, state in rows}


@dataclass(frozen=True, slots=True)
class Report:
    """What one running job reports. JSON values are text already; None leaves the column alone."""

    id: str
    lease_epoch: int
    progress: str | None
    log_lines: str | None


# Index: the primary key (for "state || ''" see queue/finish.py). REPORT skips rows that others have locked:
# the worker's next report has them. LAST_REPORT runs in the job's own transaction, has no next report, and waits.
LAST_REPORT = qualified(f"""
WITH report AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(lease_epochs)s::int[], %(progress)s::text[], %(lines)s::text[])
        AS r(id, lease_epoch, progress, lines)
),
free AS MATERIALIZED (
    SELECT job.id FROM pgonly_job AS job JOIN report ON job.id = report.id AND job.lease_epoch = report.lease_epoch
    WHERE job.state || '' = 'running' FOR NO KEY UPDATE OF job
)
UPDATE pgonly_job AS job SET
    progress = coalesce(report.progress::jsonb, job.progress),
    reported_at = clock_timestamp(),
    log = CASE WHEN report.lines IS NULL THEN job.log ELSE (
        SELECT jsonb_agg(line ORDER BY place) FROM (
            SELECT line, place FROM jsonb_array_elements(job.log || report.lines::jsonb)
                WITH ORDINALITY AS l(line, place) ORDER BY place DESC LIMIT {LOG_LINES_KEPT}
        ) AS newest
    ) END
FROM report WHERE job.id = report.id AND job.id = ANY (ARRAY (SELECT id FROM free))
RETURNING job.id::text
""")
REPORT = Statement(LAST_REPORT.replace("FOR NO KEY UPDATE OF job", "FOR NO KEY UPDATE OF job SKIP LOCKED"))


def report_parameters(reports: Sequence[Report]) -> Params:
    """Returns the parameters of REPORT and LAST_REPORT."""
    return {
        "ids": [report.id for report in reports],
        "lease_epochs": [report.lease_epoch for report in reports],
        "progress": [report.progress for report in reports],
        "lines": [report.log_lines for report in reports],
    }
