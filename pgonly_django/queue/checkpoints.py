"""The durable memory of a job: its checkpoint and its steps.

They are written on the caller's own Django connection: inside atomic() they commit together with the rows they
describe. Every write locks the job row FOR KEY SHARE and checks its lease. A heartbeat passes that lock, a rescue waits
for it or skips the row, and a run that was declared dead writes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connections, transaction

from pgonly_django.amounts import Cost
from pgonly_django.database.on_django import all_rows, first_row, require_autocommit
from pgonly_django.database.statement import Params, Statement
from pgonly_django.exceptions import LeaseLost, StepNameError
from pgonly_django.models.checkpoint import STEP_NAME_LENGTH
from pgonly_django.queue.output import PartRow, keep
from pgonly_django.tables import qualified

# Index: the primary keys, here and in LOAD_CHECKPOINT.
SAVE_CHECKPOINT = qualified("""
INSERT INTO pgonly_checkpoint (job_id, value, positions, saved_at)
SELECT job.id, %(value)s::jsonb, %(positions)s::jsonb, clock_timestamp() FROM pgonly_job AS job
WHERE job.id = %(id)s AND job.lease_epoch = %(lease_epoch)s AND job.state = 'running' FOR KEY SHARE
ON CONFLICT (job_id) DO UPDATE
    SET value = excluded.value, positions = excluded.positions, saved_at = excluded.saved_at
""")
# Index: also pgonly_job_output_once.
LOAD_CHECKPOINT = Statement(
    qualified("""
SELECT coalesce(checkpoint.value::text, 'null'), coalesce(checkpoint.positions::text, '{}'),
    (SELECT 'some' FROM pgonly_job_output AS output WHERE output.job_id = wanted.id LIMIT 1)
FROM (SELECT %(id)s::uuid AS id) AS wanted LEFT JOIN pgonly_checkpoint AS checkpoint ON checkpoint.job_id = wanted.id
""")
)

# The time when the call of a step began, which has just returned; NULL if that time is not known.
BEGAN = "clock_timestamp() - make_interval(secs => %(seconds)s::float8)"
# Index: the primary key, then pgonly_step_once (job, name), here and in SAVE_STEP.
FIND_STEP = qualified("""
SELECT CASE WHEN step.id IS NOT NULL THEN coalesce(step.result::text, 'null') END
FROM pgonly_job AS job LEFT JOIN pgonly_step AS step ON step.job_id = job.id AND step.name = %(name)s
WHERE job.id = %(id)s AND job.lease_epoch = %(lease_epoch)s AND job.state = 'running'
""")
SAVE_STEP = qualified(f"""
INSERT INTO pgonly_step (job_id, name, result, started_at, finished_at, usd, tokens_in, tokens_out)
SELECT job.id, %(name)s, %(result)s::jsonb, {BEGAN}, clock_timestamp(), %(usd)s::numeric,
    %(tokens_in)s::int8, %(tokens_out)s::int8 FROM pgonly_job AS job
WHERE job.id = %(id)s AND job.lease_epoch = %(lease_epoch)s AND job.state = 'running' FOR KEY SHARE
ON CONFLICT (job_id, name) DO NOTHING
RETURNING coalesce(result::text, 'null')
""")
# As SAVE_STEP. It also notes once among the costs what the call has cost. If the lease of the reservation has run out
# by then, its row is there. Index: also pgonly_cost_reservation.
SAVE_PAID_STEP = qualified(f"""
WITH saved AS (
    INSERT INTO pgonly_step (job_id, name, result, started_at, finished_at, usd, tokens_in, tokens_out)
    SELECT job.id, %(name)s, %(result)s::jsonb, {BEGAN}, clock_timestamp(), %(usd)s::numeric,
        %(tokens_in)s::int8, %(tokens_out)s::int8 FROM pgonly_job AS job
    WHERE job.id = %(id)s AND job.lease_epoch = %(lease_epoch)s AND job.state = 'running' FOR KEY SHARE
    ON CONFLICT (job_id, name) DO NOTHING
    RETURNING job_id, name, coalesce(result::text, 'null') AS result, usd, tokens_in, tokens_out
),
noted AS (
    INSERT INTO pgonly_cost (job_id, task, queue, step, usd, tokens_in, tokens_out, model, budget, reservation)
    SELECT saved.job_id, job.task, job.queue, saved.name, saved.usd, saved.tokens_in, saved.tokens_out,
        coalesce(%(model)s::text, ''), %(budget)s::text, %(reservation)s::uuid
    FROM saved JOIN pgonly_job AS job ON job.id = saved.job_id
    ON CONFLICT (reservation) WHERE reservation IS NOT NULL DO UPDATE SET usd = excluded.usd,
        tokens_in = excluded.tokens_in, tokens_out = excluded.tokens_out, model = excluded.model, is_estimate = false
)
SELECT result FROM saved
""")

# What `job` has saved, as a text that changes with each new step, position and value. Index: pgonly_step_once and the
# primary key.
SAVED = qualified("""concat_ws(' ', (SELECT count(*) FROM pgonly_step AS step WHERE step.job_id = job.id), (
    SELECT md5(concat(checkpoint.value, checkpoint.positions)) FROM pgonly_checkpoint AS checkpoint
    WHERE checkpoint.job_id = job.id))""")
# Whether SAVED is what the job had saved when its worker died last. A rescue notes that text among the errors; a rescue
# of an older version does not.
NOTHING_NEW_SAVED = f"""coalesce(
    jsonb_path_query_array(job.errors, '$[*] ? (@.outcome == "crashed").saved') ->> -1 = {SAVED}, true)"""


NO_COST = {"usd": None, "tokens_in": None, "tokens_out": None}


@dataclass(frozen=True, slots=True)
class StepCost:
    """The cost of a step, and the budget that pays. `is_noted`: the cost gets its row among the costs with the step, in
    the same database."""

    cost: Cost
    budget: str = ""
    reservation: UUID | None = None
    is_noted: bool = True


class Position(NamedTuple):
    """The position of a loop: how many items are done; for rows that are read by their primary keys also the last one
    done, and the last one that the loop is to come to."""

    done: int = 0
    after: int | str | None = None
    until: int | str | None = None


@dataclass(slots=True)
class Saved:
    """A checkpoint row: the value of the job as JSON text, and the position of each iterate(). The texts of these
    belong to it: `ends` says where each ends in the output of the run."""

    value: str = "null"
    positions: dict[str, Position] = field(default_factory=dict)
    ends: dict[str, Any] = field(default_factory=dict)
    has_output: bool = field(default=False, compare=False)  # of earlier runs; known after a load

    def copy(self) -> Saved:
        return Saved(self.value, self.positions.copy(), self.ends.copy())


def load_checkpoint(alias: str, job_id: str) -> Saved:
    row = first_row(alias, LOAD_CHECKPOINT, {"id": job_id})
    assert row is not None
    value, positions, has_output = row
    stored = json.loads(positions).items()
    loops = {name: Position(*at) if isinstance(at, list) else Position(at) for name, at in stored}
    return Saved(value, loops, has_output=has_output is not None)


def positions_json(positions: Mapping[str, Position]) -> str:
    """Returns, by the names of the loops, the number of items, or all of a Position that has keys."""
    return json.dumps({name: at.done if at.after is None else at for name, at in positions.items()})


def save_checkpoint(
    alias: str, job_id: str, lease_epoch: int, value: str, positions: str, said: Sequence[PartRow] = ()
) -> None:
    """Writes the checkpoint (JSON texts), and in the same transaction what was `said`. Raises LeaseLost when the job
    belongs to another run by now, and ManualCommitError where the job itself would have to commit it."""
    require_autocommit(alias, "save_checkpoint() or iterate()")
    saved: Params = {"id": job_id, "lease_epoch": lease_epoch, "value": value, "positions": positions}
    with _one_transaction(alias, said), connections[alias].cursor() as cursor:
        cursor.execute(SAVE_CHECKPOINT, saved)
        if cursor.rowcount == 0:
            raise LeaseLost
        if said:
            keep(alias, job_id, said)


def _one_transaction(alias: str, said: Sequence[PartRow]) -> AbstractContextManager[None]:
    """Runs the statements in one transaction. A single statement needs none."""
    return transaction.atomic(using=alias) if said else nullcontext()


def check_step_name(name: object, limit: int = STEP_NAME_LENGTH, what: str = "A step's name") -> None:
    """Raises StepNameError for a name that the table cannot hold."""
    if not isinstance(name, str) or not 0 < len(name) <= limit or "\0" in name:
        raise StepNameError(name, limit, what)


def find_step(alias: str, job_id: str, lease_epoch: int, name: str) -> str | None:
    """Returns the result of a finished step as PostgreSQL gives it (JSON text); None if there is none. Raises LeaseLost
    and ManualCommitError as save_checkpoint() does, so no run pays for a call whose answer it could not keep."""
    require_autocommit(alias, "step()")
    found = all_rows(alias, FIND_STEP, {"id": job_id, "lease_epoch": lease_epoch, "name": name})
    if not found:
        raise LeaseLost
    result: str | None = found[0][0]
    return result


def save_step(
    alias: str, job_id: str, lease_epoch: int, name: str, result: str, paid: StepCost | None = None,
    said: Sequence[PartRow] = (), began: float | None = None,
) -> tuple[str, bool]:  # fmt: skip
    """Keeps the result of a step (JSON text), unless one is there. Returns the result that is kept, as find_step()
    does, and whether it is this one. Raises LeaseLost as save_checkpoint() does. What was `paid` is stored in the same
    statement, what was `said` in the same transaction; where another result is kept, neither is. The call `began` at
    that time.monotonic()."""
    parameters: Params = {"id": job_id, "lease_epoch": lease_epoch, "name": name, "result": result}
    parameters["seconds"] = None if began is None else time.monotonic() - began
    parameters |= NO_COST if paid is None else asdict(paid.cost)
    statement = SAVE_STEP
    if paid is not None and paid.is_noted:
        statement = SAVE_PAID_STEP
        parameters |= {"budget": paid.budget, "reservation": paid.reservation}
    with _one_transaction(alias, said), connections[alias].cursor() as cursor:
        cursor.execute(statement, parameters)
        row = cursor.fetchone()
        if row is not None and said:
            keep(alias, job_id, said)
    if row is not None:
        return row[0], True
    kept = find_step(alias, job_id, lease_epoch, name)
    assert kept is not None
    return kept, False
