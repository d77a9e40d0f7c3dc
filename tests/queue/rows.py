"""Rows in every state, and a worker's statements run by hand."""

from __future__ import annotations

import contextvars
import json
import math
import time
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID, uuid4

from django.db import connection, models
from django.utils import timezone
from psycopg.sql import quote

from pgonly_django.conf import LONGEST, settings
from pgonly_django.context.run import Run
from pgonly_django.models import Job, JobBatch, Queue, Wait, Worker
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.batches import end_of
from pgonly_django.queue.claim import Claim, ClaimedJob, Claimer
from pgonly_django.queue.finish import Finish, finish_statements
from pgonly_django.queue.limited.claim import LimitedClaimer
from pgonly_django.queue.limited.turns import Turns
from pgonly_django.worker.ending import EndedRun
from pgonly_django.worker.running import Executor
from tests import activity
from tests.waiting import wait_for

LEASE = timedelta(seconds=settings().lease_seconds)
SECOND, MINUTE, HOUR, DAY = (timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours", "days"))


def ago(delta: timedelta):
    return timezone.now() - delta


def make(**facts) -> Job:
    """A ready job, unless `facts` say otherwise."""
    return Job.objects.create(**{"task": "tests.jobs.add", **facts})


# A value for each kind of column, so that a new column is filled, too.
FILLED = {
    models.CharField: "x",
    models.DateTimeField: ago(HOUR),
    models.DurationField: timedelta(days=9),
    models.IntegerField: 30,
    models.SmallIntegerField: 30,
    models.UUIDField: "00000000-0000-4000-8000-000000000001",
}


def filled(*but: str) -> dict[str, object]:
    """A value for every column of a job that is no JSON, `but` for some."""
    columns = {field.name: FILLED[type(field)] for field in Job._meta.fields if type(field) in FILLED}
    return {name: value for name, value in columns.items() if name not in ("id", "state", *but)}


def insert_jobs(rows: str, **columns: str) -> str:
    """An INSERT of one job for each of the `rows`, a FROM item; `columns` are SQL, the others as make() leaves them."""
    job = Job(task="tests.jobs.add")
    needed = [
        each for each in Job._meta.fields if not (each.null or each.has_db_default() or each.primary_key)
    ]
    defaults = {each.name: each.value_from_object(job) for each in needed}
    literals = {
        name: quote(json.dumps(it) if isinstance(it, list | dict) else it) for name, it in defaults.items()
    }
    values = {"id": "gen_random_uuid()", **literals, **columns}
    return f"INSERT INTO pgonly_job ({', '.join(values)}) SELECT {', '.join(values.values())} FROM {rows}"


def make_running(worker_id: UUID | None = None, **facts) -> Job:
    """A job in its first run, its lease good for a minute."""
    return make(
        **{
            "state": State.RUNNING,
            "lease_epoch": 1,
            "attempt": 1,
            "worker_id": worker_id or uuid4(),
            "lease_expires_at": timezone.now() + LEASE,
            "attempted_at": timezone.now(),
            "started_at": timezone.now(),
            **facts,
        }
    )


def make_waiting(
    key: str | None = "approve:7", *, since: timedelta = HOUR, state=State.SCHEDULED, **columns
) -> Wait:
    """The wait of a job that left its first run to wait, without a deadline unless `until` is among the `columns`."""
    run_at = columns.get("until") or timezone.now() + LONGEST
    held_by = "a person" if state == State.HELD else None
    job = make(state=state, run_at=run_at, lease_epoch=1, attempt=1, held_by=held_by)
    name = f"event {key}" if key else "sleep cool down"
    return Wait.objects.create(job=job, key=key, name=name, began_at=ago(since), lease_epoch=1, **columns)


def make_gathering(**members: int) -> JobBatch:
    """The batch of a job that waits for its members, of which there are as many in each state."""
    job = make_waiting(None).job
    batch = JobBatch.objects.create(parent=job, name="papers")
    job.waits.update(key=end_of(str(batch.pk), 1), until=None)
    for state, number in members.items():
        Job.objects.bulk_create(
            Job(task="tests.jobs.add", state=state, batch_id=batch.pk) for _ in range(number)
        )
    return batch


def make_worker(silent_for: timedelta = timedelta(0), **facts) -> Worker:
    given = {"name": "w", "hostname": "h", "pid": 1, "threads": 1, "version": "1", **facts}
    return Worker.objects.create(**{"heartbeat_at": ago(silent_for), **given})


def claimer(*queues: str, worker_id: UUID | None = None) -> Claimer:
    return Claimer(worker_id or uuid4(), LEASE, queues)


def claim(
    connection, by: Claimer, free_slots=10, prefetch_limits=None, *, take_suspect=True, took_seconds=0.0
):
    """One claim of `by`. `took_seconds` in the hours keeps the next ones on the floors."""
    wanted = Claim(free_slots, prefetch_limits or {}, take_suspect, from_head=by.is_head_due)
    statement, parameters = by.statement(wanted)
    rows = connection.execute(statement.sql, parameters, prepare=True)
    jobs = by.in_order([ClaimedJob._make(row) for row in rows])
    by.absorb(wanted, jobs, took_seconds)
    return jobs


def run_of(job: ClaimedJob, worker_id: UUID | str = "") -> Run:
    return Run(job, "default", time.monotonic(), math.inf, "w", str(worker_id))


def run(job: ClaimedJob, worker_id: UUID | str = "") -> EndedRun:
    """Runs a claimed job in this thread, as a worker does. Its end is still to be written, unless it is committed."""
    executor = Executor("default", str(worker_id), print)
    ended = contextvars.copy_context().run(executor.call, run_of(job, worker_id))
    return ended if job.then_job is None else executor.enqueue_next(ended)


def write(connection, *finishes: Finish) -> int:
    """How many rows the batch changed."""
    return sum(
        connection.execute(statement.sql, parameters, prepare=True).rowcount
        for statement, parameters in finish_statements(finishes)
    )


def finish_of(job, outcome=Outcome.SUCCEEDED, state=State.SUCCEEDED, **facts) -> Finish:
    return Finish(str(job.id), facts.pop("lease_epoch", job.lease_epoch), outcome, state, **facts)


def fresh(job) -> Job:
    return Job.objects.get(pk=job.id)


def lock(connection, job) -> None:
    """Lock the job's row until the transaction of `connection` ends."""
    connection.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [job.pk])


@contextmanager
def while_locked(row: models.Model, by, beside=None):
    """`by` holds the lock of this row. What the connection `beside` sends fails where it waits for it."""
    if beside is not None:
        beside.execute("SET lock_timeout = '1s'")
    table, key = connection.ops.quote_name(row._meta.db_table), row._meta.pk.column
    with by.transaction():
        by.execute(f"SELECT FROM {table} WHERE {key} = %s FOR UPDATE", [row.pk])
        yield


def heard(listening) -> list[str]:
    """The notifications that arrived by the time of a round trip."""
    listening.execute("SELECT 1")
    return sorted(each.payload for each in listening.notifies(timeout=0))


def limited_claimer(*queues: str, threads=10, worker_id: UUID | None = None) -> LimitedClaimer:
    worker_id = worker_id or uuid4()
    return LimitedClaimer(worker_id, LEASE, threads, Turns(queues))


def claim_limited(connection, by: LimitedClaimer, free_slots=10, *, take_suspect=True):
    """One look, and one claim of what it has seen."""
    seen = by.look(connection, take_suspect=take_suspect)
    return by.claim(connection, seen, free_slots, take_suspect=take_suspect).jobs


def make_keyed(key, limit=1, **facts) -> Job:
    return make(**{"concurrency_key": key, "concurrency_limit": limit, "slots": 1, **facts})


def ids(jobs) -> list[str]:
    return [str(job.id) for job in jobs]


def keys(jobs) -> list[str]:
    """The concurrency keys of claimed jobs, in order."""
    found = dict(Job.objects.values_list("id", "concurrency_key"))
    return [found[fresh(job).id] for job in jobs]


def limit(queue="default", **limits) -> None:
    Queue.objects.update_or_create(name=queue, defaults=limits)


def wait_until_blocked(other, count=1):
    """Until so many statements wait for a lock."""
    wait_for(lambda: len(activity.pids("wait_event_type = 'Lock'", other)) >= count)
