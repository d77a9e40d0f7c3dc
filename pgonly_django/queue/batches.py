"""The life of a batch: members are added to it, workers close it when none is unfinished, a sweep finds what a dead
worker has left.

Whether a batch is over is asked of committed rows, after the end of a member is written, and never counted in a row
that all members would have to lock. Whoever adds members, or makes one unfinished again, holds a lock of the batch's
row until its transaction ends (`ADD`; lock() in models/batch.py). A worker closes a batch only while nobody has such
a lock, and looks for unfinished members in a snapshot that is newer than its own lock: so it sees each member that was
added or reopened before, and those that come later find the batch closed, or open it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg
from django.db import connections, transaction

from pgonly_django.compat import new_ids
from pgonly_django.database import notify
from pgonly_django.database.connect import OwnConnection
from pgonly_django.database.on_django import all_rows
from pgonly_django.database.statement import Params
from pgonly_django.exceptions import BatchFinishedError, LeaseLost
from pgonly_django.models.batch import lock
from pgonly_django.models.job_rows import UNFINISHED_STATES
from pgonly_django.models.related import cancel_members, gathered_below
from pgonly_django.queue import waits
from pgonly_django.queue.enqueue import Members, NewJob, insert_beside, running_job
from pgonly_django.tables import qualified

AT_ONCE = 1000
EVENT_KEPT = timedelta(days=1)  # longer while a job waits for it; a later run looks at the batch first
Callback = Callable[[str, dict[str, Any]], NewJob]

# Index: the primary key.
CREATE = qualified("""
INSERT INTO pgonly_batch (id, name, made_by, callbacks, sent, closes)
VALUES (%(id)s, %(name)s, %(made_by)s, %(callbacks)s::jsonb, '{}', 0)
ON CONFLICT (id) DO NOTHING
""")
# Index: the primary key. Two transactions that add do not wait for each other, and a worker that closes skips the
# batch.
ADD = qualified("""
SELECT id FROM pgonly_batch WHERE id = %(id)s AND finished_at IS NULL AND cancelled_at IS NULL FOR SHARE
""")


def create(alias: str, batch_id: str, callbacks: str, name: str = "") -> bool:
    """Makes the row in the caller's transaction. Returns whether the row is new: until the commit no other session sees
    it. `callbacks` is JSON: rows by their names."""
    made_by = running_job().get("enqueued_by", "")
    row = {"id": batch_id, "callbacks": callbacks, "name": name, "made_by": made_by}
    with connections[alias].cursor() as cursor:
        cursor.execute(CREATE, row)
        return bool(cursor.rowcount)


def lock_to_add(alias: str, batch_id: str) -> None:
    """Keeps the batch open until the caller's transaction ends. Raises BatchFinishedError if it is closed."""
    if not all_rows(alias, ADD, {"id": batch_id}):
        raise BatchFinishedError(batch_id)


def cancel(alias: str, ids: Collection[Any]) -> int:
    """Cancels the members of these batches that are unfinished, and what they have gathered. Returns how many members
    it has cancelled. It waits for transactions that add members, so that these are cancelled too."""
    with transaction.atomic(using=alias):
        lock(alias, [*ids, *gathered_below(alias, ids)])
        count = cancel_members(alias, ids)
        for batch_id in ids:
            notify.wake_after_commit(alias, notify.batch(batch_id))
    return count


# The batch of a gather(): on Django's connection of the job's thread, and fenced by its lease.

# What an earlier run has noted of its wait (its name: see for_event() in queue/waits.py) is over with the batch. Index:
# the primary key, then pgonly_batch_once and pgonly_wait_once.
FIND_GATHERED = qualified("""
WITH found AS MATERIALIZED (
    SELECT job.id AS job_id, batch.id, batch.finished_at IS NOT NULL AS is_finished, batch.closes, batch.size
    FROM pgonly_job AS job LEFT JOIN pgonly_batch AS batch ON batch.parent_id = job.id AND batch.name = %(name)s
    WHERE job.id = %(id)s AND job.lease_epoch = %(lease_epoch)s AND job.state = 'running'
),
over AS (
    DELETE FROM pgonly_wait AS wait USING found WHERE found.is_finished AND wait.job_id = found.job_id
        AND wait.name = concat('event batch ', found.id, ' ', found.closes)
)
SELECT id::text, is_finished, closes, size FROM found
""")
# Without members it is finished at once. Index: the primary key, pgonly_batch_once.
BEGIN_GATHERED = qualified("""
INSERT INTO pgonly_batch (id, parent_id, name, size, callbacks, sent, closes, finished_at)
SELECT %(batch)s::uuid, job.id, %(name)s, %(size)s::int, '{}', '{}', 0,
    CASE WHEN %(size)s::int = 0 THEN clock_timestamp() END
FROM pgonly_job AS job
WHERE job.id = %(id)s AND job.lease_epoch = %(lease_epoch)s AND job.state = 'running' FOR KEY SHARE
ON CONFLICT (parent_id, name) WHERE parent_id IS NOT NULL DO NOTHING
""")


class Gathered(NamedTuple):
    """The batch of a gather()."""

    batch_id: str
    is_finished: bool
    closes: int
    size: int


def find_gathered(alias: str, job_id: str, lease_epoch: int, name: str) -> Gathered | None:
    """Returns the batch of this name; None where there is none. Raises LeaseLost as find_step() does."""
    found = all_rows(alias, FIND_GATHERED, {"id": job_id, "lease_epoch": lease_epoch, "name": name})
    if not found:
        raise LeaseLost
    return None if found[0][0] is None else Gathered(*found[0])


def begin_gathered(alias: str, job_id: str, lease_epoch: int, name: str, members: Members) -> Gathered:
    """Makes the batch and its members in one transaction, unless it is there."""
    (batch_id,) = new_ids(1)
    row: Params = {
        "id": job_id,
        "lease_epoch": lease_epoch,
        "name": name,
        "batch": batch_id,
        "size": members.size,
    }
    with transaction.atomic(using=alias):
        with connections[alias].cursor() as cursor:
            cursor.execute(BEGIN_GATHERED, row)
            is_new = cursor.rowcount > 0
        if is_new:
            members.insert(batch_id)
    found = find_gathered(alias, job_id, lease_epoch, name)
    assert found is not None
    return found


def end_of(batch_id: str, number: int) -> str:
    """Returns the key of the event that is sent when the batch ends for the first time, or after a retry again."""
    return f"batch {batch_id} {number}"


# On a row of pgonly_batch. Index: pgonly_job_batch_unfinished, pgonly_job_batch. A scalar subquery is one probe for
# each batch; NOT EXISTS may read the unfinished members of all batches into a hash. "state || ''" keeps the planner
# from the index of all finished jobs.
IS_OVER = qualified(f"""coalesce((SELECT false FROM pgonly_job AS job
    WHERE job.batch_id = batch.id AND job.state IN ({UNFINISHED_STATES}) LIMIT 1), true)""")
HAS_FAILED = qualified("""coalesce((SELECT true FROM pgonly_job AS job
    WHERE job.batch_id = batch.id AND job.state || '' IN ('failed', 'cancelled') LIMIT 1), false)""")

# Index: the primary key.
OVER = qualified(f"""
SELECT batch.id::text FROM pgonly_batch AS batch
WHERE batch.id = ANY (%(ids)s::uuid[]) AND batch.finished_at IS NULL AND {IS_OVER}
""")
# Index: the primary key. The next statement sees what was committed before these locks.
LOCK = qualified("""
SELECT id::text FROM pgonly_batch WHERE id = ANY (%(ids)s::uuid[]) AND finished_at IS NULL
ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
""")
# Index: the primary key. A row for each callback that is due, and one for a batch without any. The commit does not wait
# for the disk: after a crash of the server that undoes it, a sweep closes the batch again, and no callback was claimed.
CLOSE = qualified(f"""
WITH closed AS (
    UPDATE pgonly_batch AS batch SET finished_at = clock_timestamp(), closes = closes + 1,
        delete_after = clock_timestamp() + interval '1 day'
    WHERE batch.id = ANY (%(ids)s::uuid[]) AND {IS_OVER}
    RETURNING id, parent_id, closes, callbacks, sent, {HAS_FAILED} AS has_failed
)
SELECT closed.id::text, closed.parent_id::text, closed.closes, closed.has_failed, callback.name,
    closed.callbacks -> callback.name, set_config('synchronous_commit', 'off', true)
FROM closed
LEFT JOIN (VALUES ('on_success', false), ('on_failure', true), ('on_finish', NULL)) AS callback(name, failed)
    ON coalesce(callback.failed = closed.has_failed, true)
        AND closed.callbacks -> callback.name IS NOT NULL AND closed.sent -> callback.name IS NULL
""")
# Index: the primary key.
NOTE_SENT = qualified("""
UPDATE pgonly_batch SET sent = sent || (%(sent)s::jsonb -> id::text) WHERE id = ANY (%(ids)s::uuid[])
""")


class _Row(NamedTuple):
    """A row of CLOSE."""

    batch: str
    parent: str | None
    closes: int
    has_failed: bool
    callback: str | None
    job: dict[str, Any] | None  # as it is stored


@dataclass(slots=True)
class Closed:
    """What close() has done. `batches`: the closed ones, and whether a member has not succeeded. `locked`: batches that
    are over, whose rows another transaction has locked: ask again soon. `payloads` tells the workers what follows."""

    batches: dict[str, bool] = field(default_factory=dict)
    locked: list[str] = field(default_factory=list)
    payloads: set[str] = field(default_factory=set)

    def close(self, connection: OwnConnection, batch_id: str, callback: Callback) -> None:
        """Closes another batch, and adds what that has done."""
        one = close(connection, [batch_id], callback)
        self.batches |= one.batches
        self.locked += one.locked
        self.payloads |= one.payloads


def close(connection: OwnConnection, ids: Collection[str], callback: Callback) -> Closed:
    """Closes those of the batches that are over, and enqueues their callbacks in the same transaction. `callback` makes
    the job of a callback, from the id of its batch and the row as it is stored."""
    over = [batch_id for (batch_id,) in connection.execute(OVER, {"ids": list(ids)})]
    if not over:
        return Closed()
    closed = Closed()
    with connection.session_settings(), connection.transaction():
        free = [batch_id for (batch_id,) in connection.execute(LOCK, {"ids": over})]
        rows = [_Row(*row[:-1]) for row in connection.execute(CLOSE, {"ids": free})] if free else []
        due = [(row, callback(row.batch, row.job)) for row in rows if row.job is not None]
        closed.payloads = _send(connection, due) if due else set()
        for row in rows:
            if row.parent is not None:
                answer = {"key": end_of(row.batch, row.closes), "payload": "null", "keep": EVENT_KEPT}
                connection.execute(waits.SEND.sql, answer)
                closed.payloads.add(notify.EVENT)
    closed.batches = {row.batch: row.has_failed for row in rows}
    closed.locked = [batch_id for batch_id in over if batch_id not in free]
    return closed


def _send(connection: psycopg.Connection[Any], due: Iterable[tuple[_Row, NewJob]]) -> set[str]:
    """Enqueues the callbacks, and notes that they are enqueued. Returns what tells the workers of them."""
    sent: dict[str, dict[str, str]] = {}
    payloads: set[str] = set()
    for row, job in due:
        job_id, told = insert_beside(connection, job)
        sent.setdefault(row.batch, {})[str(row.callback)] = job_id
        payloads.update(told)
    connection.execute(NOTE_SENT, {"ids": list(sent), "sent": json.dumps(sent)})
    return payloads


ADVISORY_LOCK = 0x70676F6E_11  # "pgon"; one process sweeps at a time
# Index: pgonly_batch_open, the primary key of jobs, and that of IS_OVER.
SWEEP = qualified(f"""
SELECT ARRAY (SELECT batch.id::text FROM pgonly_batch AS batch
        WHERE batch.finished_at IS NULL AND {IS_OVER} LIMIT {AT_ONCE}),
    ARRAY (SELECT batch.id::text FROM pgonly_batch AS batch JOIN pgonly_job AS parent ON parent.id = batch.parent_id
        WHERE batch.finished_at IS NULL AND batch.cancelled_at IS NULL AND CASE parent.state
            WHEN 'cancelled' THEN true WHEN 'running' THEN parent.cancel_requested_at IS NOT NULL
            WHEN 'failed' THEN parent.errors -> -1 ->> 'outcome' = 'discarded'
                AND parent.errors -> -1 -> 'members' IS NULL END
        LIMIT {AT_ONCE}),
    EXISTS (SELECT FROM pgonly_batch WHERE finished_at IS NULL)
WHERE pg_try_advisory_xact_lock({ADVISORY_LOCK})
""")


class Swept(NamedTuple):
    """What a sweep finds: batches that are over, and batches whose parent was cancelled, or is to be, or discarded."""

    over: list[str]
    orphaned: list[str]
    some_open: bool


def sweep(connection: psycopg.Connection[Any]) -> Swept:
    """Looks at all open batches, unless another process does so at this moment."""
    row = connection.execute(SWEEP, prepare=True).fetchone()
    return Swept([], [], True) if row is None else Swept(*row)


# Index: pgonly_batch_expired, a range of it; pgonly_job_batch, the primary key. A batch with members is looked at again
# a day later.
PRUNE_BATCHES = qualified(f"""
WITH expired AS MATERIALIZED (
    SELECT batch.id,
        coalesce((SELECT true FROM pgonly_job AS job WHERE job.batch_id = batch.id LIMIT 1), false) AS stays
    FROM pgonly_batch AS batch WHERE batch.delete_after < statement_timestamp()
    ORDER BY batch.delete_after LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED
),
put_off AS (
    UPDATE pgonly_batch SET delete_after = clock_timestamp() + interval '1 day'
    WHERE id = ANY (ARRAY (SELECT id FROM expired WHERE stays))
),
deleted AS (DELETE FROM pgonly_batch WHERE id = ANY (ARRAY (SELECT id FROM expired WHERE NOT stays)))
SELECT FROM expired
""")


def prune(connection: psycopg.Connection[Any]) -> int:
    """Deletes finished batches without members, a day after their end. Returns how many it has looked at: if these are
    fewer than AT_ONCE, no more are left."""
    return connection.execute(PRUNE_BATCHES).rowcount
