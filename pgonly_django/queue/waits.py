"""Jobs that wait for a time or for an event, and the events: durable answers, of which the first one for a key counts.

No order of commits loses an event, and nobody locks anything for that. The row of a wait is committed before its job
looks for the event, so that look misses only an event that is committed later. DELIVER runs after that commit, and sees
the row. It keeps the event undelivered until the job has left its run, which it then wakes, or has taken the event, or
is in another run, which looks itself. Whoever ends such a run asks for another DELIVER.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

import psycopg
from asgiref.sync import sync_to_async
from django.db import connections, router, transaction

from pgonly_django.conf import LONGEST
from pgonly_django.database import notify
from pgonly_django.database.on_django import first_row, repeat_after_conflict, require_autocommit
from pgonly_django.database.statement import Statement, printable
from pgonly_django.exceptions import (
    EventTimeout,
    LeaseLost,
    StepNameOfWaitError,
    WrongArgumentsError,
    as_timedelta,
)
from pgonly_django.models.waits import EVENT_KEY_LENGTH, FITS, Event
from pgonly_django.queue.checkpoints import check_step_name
from pgonly_django.queue.promote import SET_READY_AGAIN
from pgonly_django.queue.values import to_json
from pgonly_django.tables import qualified

BATCH = 1000
EVENT_KEPT = timedelta(days=30)
Delay = timedelta | float
# What for_first() may wait for at a key: an event, an event with `choices` and `question`, or a time.
Asked = Mapping[str, Any] | Delay | None
# The prefixes of the names of steps that keep the answers to waits.
PREFIXES = ("sleep ", "event ", "first of ")


@dataclass(frozen=True, slots=True)
class NewWait:
    """What a job waits for. `name` is that of the step which keeps the answer; `key` None: only for the timeout."""

    name: str
    key: str | None
    timeout: timedelta | None
    choices: str = "[]"  # JSON
    question: str = ""
    keeps_key: bool = False

    @property
    def label(self) -> str:
        """The key of the event, or the name of the time."""
        return self.name.partition(" ")[2]


def for_time(name: str, delay: Delay) -> NewWait:
    """Raises StepNameError and WrongArgumentsError."""
    check_step_name(name)
    check_step_name(step := f"sleep {name}")
    return NewWait(step, None, _bounded(delay, "sleep()"))


def for_event(
    key: str, timeout: Delay | None, choices: Sequence[str], question: str, *, keeps_key: bool
) -> NewWait:
    """Raises StepNameError and WrongArgumentsError."""
    _check_key(key)
    if isinstance(choices, str) or not all(isinstance(each, str) for each in choices):
        raise WrongArgumentsError("wait_for_event()", f"choices must be a list of texts, got {choices!r}")
    until = None if timeout is None else _bounded(timeout, "wait_for_event()")
    texts = to_json(list(choices), "The choices of an event")
    return NewWait(f"event {key}", key, until, texts, printable(str(question)), keeps_key)


def for_first(keys: Mapping[str, Asked], timeout: Delay | None) -> list[NewWait]:
    """Raises StepNameError and WrongArgumentsError."""
    if not isinstance(keys, Mapping) or not keys:
        raise WrongArgumentsError("wait_for_first()", f"it takes a dict of at least one key, got {keys!r}")
    return [_one_of_first(key, asked, timeout) for key, asked in keys.items()]


def _one_of_first(key: str, asked: Asked, timeout: Delay | None) -> NewWait:
    if asked is not None and not isinstance(asked, Mapping):
        return for_time(key, asked)
    options = dict(asked or {})
    choices, question = options.pop("choices", ()), options.pop("question", "")
    if options:
        what = f"of a key it takes choices and question, got {', '.join(map(repr, options))}"
        raise WrongArgumentsError("wait_for_first()", what)
    return for_event(key, timeout, choices, question, keeps_key=False)


def name_of(of: Sequence[NewWait]) -> str:
    """Returns the name of the step that keeps the answer."""
    if len(of) == 1:
        return of[0].name
    names = ", ".join(json.dumps(label, ensure_ascii=False) for label in sorted(wait.label for wait in of))
    if len(names) > EVENT_KEY_LENGTH:
        digest = sha256(names.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        names = f"{names[: EVENT_KEY_LENGTH - 35]}... {digest}"
    return f"first of {names}"


def first_in(answer: str, of: Sequence[NewWait]) -> tuple[str, Any]:
    """Returns the key of the first answer, and its payload. Raises EventTimeout."""
    stored = json.loads(answer)
    label = stored["first"].partition(" ")[2] if "first" in stored else of[0].label
    chosen = next(wait for wait in of if wait.label == label)  # it may have become a time, or an event, since
    if "timed_out" in stored and chosen.key is not None:
        raise EventTimeout(", ".join(wait.label for wait in of))
    return label, stored.get("event")


def refuse_name_of_wait(name: str, found: str | None) -> None:
    """Raises StepNameError for a step that has the name of a wait. What an earlier version `found` stored is read."""
    if name.startswith(PREFIXES) and (found is None or _is_answer(json.loads(found))):
        raise StepNameOfWaitError(name)


def _is_answer(stored: Any) -> bool:
    return isinstance(stored, dict) and {"first", *stored} in ({"first", "event"}, {"first", "timed_out"})


def payload_in(answer: str, key: str) -> Any:
    """Returns the payload in the stored answer to a wait. Raises EventTimeout."""
    stored = json.loads(answer)
    if "timed_out" in stored:
        raise EventTimeout(key)
    return stored["event"]


def _check_key(key: object) -> None:
    check_step_name(key, EVENT_KEY_LENGTH, "The key of an event")


def _bounded(delay: Delay, where: str) -> timedelta:
    return min(max(as_timedelta(delay, where), timedelta(0)), LONGEST)


# The job's side: on Django's connection, outside of transactions, and fenced by the lease, as its steps are.

# A later run finds the row, and keeps its deadline. Index: the primary key, and pgonly_wait_once.
BEGIN = Statement(
    qualified("""
INSERT INTO pgonly_wait (job_id, name, key, until, began_at, lease_epoch, choices, question, kept_key)
SELECT job.id, %(name)s::text, %(key)s::text, clock_timestamp() + %(timeout)s::interval, clock_timestamp(),
    job.lease_epoch, %(choices)s::jsonb, %(question)s::text,
    CASE WHEN %(keeps_key)s::bool THEN job.concurrency_key END
FROM pgonly_job AS job
WHERE job.id = %(id)s AND job.lease_epoch = %(lease_epoch)s AND job.state = 'running' FOR KEY SHARE
ON CONFLICT (job_id, name) DO UPDATE SET lease_epoch = excluded.lease_epoch, choices = excluded.choices,
    question = excluded.question, kept_key = excluded.kept_key
RETURNING 1
""")
)
# The first answer becomes a step in the statement that finds it, and all of the waits are over, but for waits that
# another branch of the run has as well: that branch ends them. If they were over before, the step is there; if another
# LOOK ends them at this moment, the row that it has inserted is returned (its xmax is not 0). The commit of an event's
# payload does not wait for the disk: a server that crashes before it is there has wait and event still, and the next
# LOOK finds the same. Index: pgonly_wait_once, the primary keys, pgonly_step_once.
LOOK = Statement(
    qualified(f"""
WITH mine AS MATERIALIZED (
    SELECT wait.id, wait.name, wait.began_at, wait.until, event.sent_at,
        date_part('epoch', wait.until - clock_timestamp()) AS seconds_left,
        CASE WHEN event.key IS NOT NULL THEN jsonb_build_object('event', event.payload)
            WHEN wait.until <= clock_timestamp() THEN '{{"timed_out": true}}' END AS answer
    FROM pgonly_wait AS wait
        LEFT JOIN pgonly_event AS event ON event.key = wait.key AND {FITS.format(wait="wait", event="event")}
    WHERE wait.job_id = %(id)s AND wait.name = ANY (%(names)s::text[])
),
first AS (
    SELECT began_at, answer || CASE WHEN name <> %(name)s::text THEN jsonb_build_object('first', name) ELSE '{{}}' END
        AS answer
    FROM mine WHERE answer IS NOT NULL ORDER BY sent_at, until, id LIMIT 1
),
saved AS (
    INSERT INTO pgonly_step (job_id, name, result, started_at, finished_at)
    SELECT job.id, %(name)s::text, first.answer, first.began_at, clock_timestamp() FROM pgonly_job AS job, first
    WHERE job.id = %(id)s AND job.lease_epoch = %(lease_epoch)s AND job.state = 'running'
    FOR KEY SHARE OF job
    ON CONFLICT (job_id, name) DO UPDATE SET name = excluded.name
    RETURNING result, xmax = 0 AS is_new
),
over AS (DELETE FROM pgonly_wait
    WHERE id = ANY (ARRAY (SELECT id FROM mine WHERE name = ANY (%(own)s::text[]))) AND EXISTS (SELECT FROM saved))
SELECT coalesce((SELECT result FROM saved),
        (SELECT result FROM pgonly_step WHERE job_id = %(id)s AND name = %(name)s))::text,
    (SELECT min(seconds_left)::text FROM mine), (SELECT 'new' FROM saved WHERE is_new),
    CASE WHEN (SELECT answer ? 'event' FROM first) THEN set_config('synchronous_commit', 'off', true) END
FROM pgonly_job AS job
WHERE job.id = %(id)s AND job.lease_epoch = %(lease_epoch)s AND job.state = 'running'
""")
)


class WaitLook(NamedTuple):
    """What a job has found: the stored answer (JSON text), or the seconds that it waits at most; None: forever."""

    answer: str | None
    seconds_left: float | None
    is_new: bool  # the answer was stored now


def begin(alias: str, job_id: str, lease_epoch: int, wait: NewWait) -> None:
    """Notes that the job waits in this run. Raises LeaseLost when the job belongs to another run by now."""
    if first_row(alias, BEGIN, {"id": job_id, "lease_epoch": lease_epoch, **asdict(wait)}) is None:
        raise LeaseLost


def look(alias: str, job_id: str, lease_epoch: int, name: str, names: list[str], own: list[str]) -> WaitLook:
    """Looks for the first answer to the waits of these `names`, and stores it under `name`. With the first answer those
    of them that are its `own` end. Raises LeaseLost when the job belongs to another run by now."""
    require_autocommit(alias, "wait_for_event() or sleep()")
    values = {"id": job_id, "lease_epoch": lease_epoch, "name": name, "names": names, "own": own}
    row = first_row(alias, LOOK, values)
    if row is None:
        raise LeaseLost
    answer, seconds_left, is_new, _ = row
    return WaitLook(answer, None if seconds_left is None else float(seconds_left), is_new is not None)


# After it nobody is asked any more, and no event wakes the job for this wait. Index: pgonly_wait_once, the primary key.
WITHDRAW = Statement(
    qualified("""
DELETE FROM pgonly_wait WHERE job_id = %(id)s AND name = ANY (%(names)s::text[])
    AND EXISTS (SELECT FROM pgonly_job AS job
        WHERE job.id = %(id)s AND job.lease_epoch = %(lease_epoch)s AND job.state = 'running')
RETURNING 1
""")
)


def withdraw(alias: str, job_id: str, lease_epoch: int, names: list[str]) -> None:
    """Ends waits without an answer, whose await was cancelled in a run that continues."""
    first_row(alias, WITHDRAW, {"id": job_id, "lease_epoch": lease_epoch, "names": names})


# The sender's side. An unfinished transaction that has sent the key is waited for.
SEND = Statement(
    qualified("""
INSERT INTO pgonly_event (key, payload, sent_at, expires_at, is_delivered)
VALUES (%(key)s::text, %(payload)s::text::jsonb, clock_timestamp(), clock_timestamp() + %(keep)s::interval, false)
ON CONFLICT (key) DO NOTHING RETURNING 1
""")
)
# In the order of the keys: two transactions that send the same ones wait for each other in one direction only.
SEND_MANY = Statement(
    qualified("""
WITH sent AS (
    INSERT INTO pgonly_event (key, payload, sent_at, expires_at, is_delivered)
    SELECT new.key, new.payload::jsonb, clock_timestamp(), clock_timestamp() + %(keep)s::interval, false
    FROM unnest(%(keys)s::text[], %(payloads)s::text[]) AS new (key, payload)
    ON CONFLICT (key) DO NOTHING RETURNING key
)
SELECT coalesce(jsonb_agg(key), '[]')::text FROM sent
""")
)
# Of a job that runs again nobody knows whether it comes to the wait.
_ASKED = qualified(f"""FROM pgonly_wait AS wait
    JOIN pgonly_job AS job ON job.id = wait.job_id
        AND (job.lease_epoch = wait.lease_epoch OR job.state || '' = 'running')
    WHERE wait.key = event.key AND job.state || '' IN ('scheduled', 'held', 'running', 'ready')
        AND {FITS.format(wait="wait", event="event")}""")
# An answer that some jobs do not offer is none for them. Another one takes its place as soon as no job needs it any
# more. SEND does not do so, since it would lock the event until the second sender commits, and DELIVER would pass over
# it. Index: the primary keys, pgonly_wait_key.
SEND_TO_OTHERS = Statement(
    qualified(f"""
UPDATE pgonly_event AS event SET payload = new.payload, sent_at = clock_timestamp(), is_delivered = false,
    is_choice = false, expires_at = greatest(event.expires_at, clock_timestamp() + %(keep)s::interval)
FROM (SELECT %(payload)s::text::jsonb AS payload) AS new
WHERE event.key = %(key)s::text
    AND EXISTS (SELECT {_ASKED.replace("event.payload", "new.payload")})
    AND NOT EXISTS (SELECT {_ASKED})
RETURNING 1
""")
)


def send_event(
    key: str, payload: Any = None, *, keep: timedelta = EVENT_KEPT, using: str | None = None
) -> bool:
    """Answers all jobs that wait for `key`, and those that will, in the caller's transaction. Returns whether this is
    the answer: False where the key has one already, which stays. A text is no answer for a job
    whose wait has choices, and not this one among them.

        if not send_event("approve:7", {"by": 3}):
            ...  # somebody else was first

    A key is a question: ask another one with another key, such as "approve:7:round 2". `payload` is JSON. The answer is
    kept at least as long as `keep`, and while a job waits for it. `using` is the database of the jobs. Raises
    StepNameError for a key that cannot be stored, and NotStorableError for a payload that is not JSON."""
    _check_key(key)
    alias: str = using or router.db_for_write(Event)
    require_autocommit(alias, "send_event()")
    row: dict[str, Any] = {"key": key, "payload": to_json(payload, "The payload of an event")}
    row["keep"] = _bounded(keep, "send_event()")
    told = None if connections[alias].in_atomic_block else notify.follow_up(alias, notify.EVENT)
    sends = (partial(first_row, alias, each, row, told) for each in (SEND, SEND_TO_OTHERS))
    if all(repeat_after_conflict(alias, send) is None for send in sends):
        return False
    notify.wake_after_commit(alias, notify.EVENT, told)
    return True


def send_events(
    events: Mapping[str, Any], *, keep: timedelta = EVENT_KEPT, using: str | None = None
) -> set[str]:
    """Sends many events in one statement: their payloads by their keys. Returns the keys whose answer this is. Two
    transactions that send some of the same keys wait for each other, and do not deadlock, as they may with several
    calls of send_event(). All events are sent, or none. See send_event()."""
    for key in events:
        _check_key(key)
    alias: str = using or router.db_for_write(Event)
    require_autocommit(alias, "send_events()")
    payloads = {key: to_json(events[key], f"The payload of the event {key!r}") for key in sorted(events)}
    row: dict[str, Any] = {"keys": list(payloads), "payloads": list(payloads.values())}
    row["keep"] = _bounded(keep, "send_events()")

    def send() -> set[str]:
        with transaction.atomic(using=alias):
            found = first_row(alias, SEND_MANY, row)
            assert found is not None
            counted = set(json.loads(found[0]))
            for key in [key for key in payloads if key not in counted]:
                other = {"key": key, "payload": payloads[key], "keep": row["keep"]}
                counted |= {key} if first_row(alias, SEND_TO_OTHERS, other) is not None else set()
        return counted

    if counted := repeat_after_conflict(alias, send) if events else set():
        notify.wake_after_commit(alias, notify.EVENT, None)
    return counted


async def asend_events(
    events: Mapping[str, Any], *, keep: timedelta = EVENT_KEPT, using: str | None = None
) -> set[str]:
    """See send_events()."""
    return await sync_to_async(send_events)(events, keep=keep, using=using)


async def asend_event(
    key: str, payload: Any = None, *, keep: timedelta = EVENT_KEPT, using: str | None = None
) -> bool:
    """See send_event()."""
    return await sync_to_async(send_event)(key, payload, keep=keep, using=using)


# The workers' side.

_WAITING = qualified(f"""FROM pgonly_wait AS wait
            JOIN pgonly_job AS job ON job.id = wait.job_id AND job.lease_epoch = wait.lease_epoch
        WHERE wait.key = event.key AND {FITS.format(wait="wait", event="event")} AND job.state || '' IN ({{}})""")
# Whether a job waits for the event in one of these states, and is not woken now.
_WAITS_ON = f"(SELECT true {_WAITING} AND job.id NOT IN (SELECT id FROM due) LIMIT 1)"
# What is locked is left to whoever holds it, or to the next time: the limits count only what is free, so that any
# number of locked jobs hold up no others. Jobs that run, and those that were not woken now, keep their event
# undelivered. (For "state || ''" see queue/finish.py.) The commit does not wait for the disk: what a crash of the
# server undoes is delivered again, and the claim that follows waits for both. Index: pgonly_event_undelivered,
# pgonly_wait_key, the primary keys; LATERAL reads no more waits and jobs than it takes.
DELIVER = qualified(f"""
WITH due AS MATERIALIZED (
    SELECT job.id FROM (
        SELECT key, payload FROM pgonly_event AS event
        WHERE NOT is_delivered AND (SELECT true {_WAITING.format("'scheduled'")} LIMIT 1)
        ORDER BY sent_at FOR UPDATE SKIP LOCKED
    ) AS sent
    CROSS JOIN LATERAL (
        SELECT job_id, lease_epoch FROM pgonly_wait AS wait
        WHERE key = sent.key AND {FITS.format(wait="wait", event="sent")} OFFSET 0
    ) AS wait
    CROSS JOIN LATERAL (
        SELECT id FROM pgonly_job AS job
        WHERE id = wait.job_id AND job.lease_epoch = wait.lease_epoch AND job.state || '' = 'scheduled'
        LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS job
    LIMIT {BATCH}
),
woken AS (
    UPDATE pgonly_job SET run_at = clock_timestamp(), {SET_READY_AGAIN}
    WHERE id = ANY (ARRAY (SELECT id FROM due)) RETURNING queue, slots
),
delivered AS (
    UPDATE pgonly_event SET is_delivered = true WHERE key = ANY (ARRAY (
        SELECT key FROM pgonly_event AS event
        WHERE NOT is_delivered AND {_WAITS_ON.format("'scheduled', 'running'")} IS NULL
        ORDER BY sent_at LIMIT {BATCH} FOR UPDATE SKIP LOCKED))
    RETURNING key
)
SELECT
    (SELECT count(*) FROM woken),
    (SELECT count(*) FROM delivered),
    coalesce((SELECT true FROM pgonly_event AS event
        WHERE NOT is_delivered AND {_WAITS_ON.format("'scheduled'")} LIMIT 1 FOR UPDATE SKIP LOCKED), false),
    {notify.WAKE_WORKERS_OF.format(rows="woken")},
    set_config('synchronous_commit', 'off', true)
""")


class Delivered(NamedTuple):
    jobs: int
    events: int
    left: bool = (
        False  # jobs wait on whose rows another transaction has locked, or which are more than a batch
    )

    @property
    def is_full(self) -> bool:
        """Whether more may be left, and the next one is due at once."""
        return max(self.jobs, self.events) >= BATCH


def deliver(connection: psycopg.Connection[Any]) -> Delivered:
    """Wakes the jobs that wait for events which were sent: one batch of them."""
    row = connection.execute(DELIVER, prepare=True).fetchone()
    assert row is not None
    return Delivered(*row[:3])


# Index: pgonly_event_expires, a range of it, then pgonly_wait_key and the primary key. (NOT EXISTS may read all waits
# into a hash.)
PRUNE = qualified("""
DELETE FROM pgonly_event WHERE key = ANY (ARRAY (
    SELECT event.key FROM pgonly_event AS event WHERE event.expires_at < statement_timestamp()
        AND (SELECT true FROM pgonly_wait AS wait WHERE wait.key = event.key LIMIT 1) IS NULL
    ORDER BY event.expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED))
""")


def prune_events(connection: psycopg.Connection[Any], limit: int = BATCH) -> int:
    """Deletes one batch of events that are no longer kept and that no job waits for. Returns their number."""
    return connection.execute(PRUNE, {"limit": limit}).rowcount
