"""The gates of limited jobs: what a queue or a concurrency key lets through now.

A gate is exact because one claim at a time passes it. The claim first takes the gate's lock, which its commit releases.
Only then it counts, in a new snapshot: what passed before is committed, and nothing passes until the commit. The
running rows themselves are the only count, so the room of a dead worker's job comes back when the job is rescued. No
claim waits for a gate: one that does not get the lock looks again a moment later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import psycopg

from pgonly_django.database.connect import OwnConnection
from pgonly_django.models.queue import LIMITED_QUEUE
from pgonly_django.queue.candidates import LIMITED_ROW, READY_ROW, SUSPECT_ROW
from pgonly_django.tables import qualified

UNLIMITED = 1_000_000
# How far the tokens of a rate pile up while nothing starts, in parts of one period: more would be a second burst.
PILE = 0.02
ADVISORY_CLASS = 0x70676F6E  # "pgon"; the second key is a hash of the gate's name


class Gate(NamedTuple):
    """A limited queue at one moment."""

    queue: str
    is_paused: bool
    has_waiting: bool
    room: int | None  # of max_running; None: no such limit
    tokens: float | None  # of the rate
    per_second: float | None  # how fast the tokens come
    blocked_seconds: float | None  # until the cool-down of its limiter ends
    at: float  # the moment, by the database's clock

    @property
    def starts(self) -> int:
        """The number of its jobs that may start."""
        if self.is_paused or self.blocked_seconds is not None:
            return 0
        room = UNLIMITED if self.room is None else max(self.room, 0)
        return room if self.tokens is None else min(room, int(self.tokens))

    @property
    def is_full(self) -> bool:
        return self.room is not None and self.room <= 0

    @property
    def opens_in_seconds(self) -> float | None:
        """The seconds after which time alone opens it; None where it is open, or waits for a job's end or a person."""
        if self.is_paused or self.is_full:
            return None
        if self.blocked_seconds is not None:
            return self.blocked_seconds
        if self.tokens is None or self.per_second is None or self.tokens >= 1:
            return None
        return (1 - self.tokens) / self.per_second


# Index: one probe of pgonly_job_ready, pgonly_job_limited, pgonly_job_suspect and pgonly_job_running for each
# queue (EXISTS would be hashed, with all ready jobs). The other tables are small. Epochs are subtracted: see
# queue/promote.py. A clock that was set back must not keep the tokens from coming.
GATES = qualified(f"""
SELECT gate.name::text, gate.paused_at IS NOT NULL,
    coalesce(
        (SELECT true FROM pgonly_job WHERE {READY_ROW} AND queue = gate.name ORDER BY priority DESC LIMIT 1),
        (SELECT true FROM pgonly_job WHERE {LIMITED_ROW} AND queue = gate.name ORDER BY priority DESC LIMIT 1),
        (SELECT true FROM pgonly_job WHERE {SUSPECT_ROW} AND queue = gate.name ORDER BY ready_at LIMIT 1), false),
    gate.max_running - (SELECT count(*) FROM (
        SELECT FROM pgonly_job WHERE state = 'running' AND queue = gate.name LIMIT gate.max_running) AS running)::int,
    CASE WHEN gate.rate_count IS NULL THEN NULL
        WHEN left_over.tokens IS NULL OR date_part('epoch', left_over.refilled_at) > clock.now THEN pile.size
        ELSE least(pile.size, left_over.tokens + gate.rate_count / gate.rate_seconds
            * (clock.now - date_part('epoch', left_over.refilled_at))) END,
    gate.rate_count / gate.rate_seconds,
    CASE WHEN limiter.blocked_until IS NOT NULL AND date_part('epoch', limiter.blocked_until) > clock.now
        THEN date_part('epoch', limiter.blocked_until) - clock.now END,
    clock.now
FROM pgonly_queue AS gate
    CROSS JOIN LATERAL (SELECT greatest(1, gate.rate_count * {PILE})::float8 AS size) AS pile
    CROSS JOIN LATERAL (SELECT date_part('epoch', clock_timestamp()) AS now) AS clock
    LEFT JOIN pgonly_queue_tokens AS left_over ON left_over.queue = gate.name
    LEFT JOIN pgonly_limiter AS limiter ON limiter.name = gate.limiter
WHERE {LIMITED_QUEUE} AND (%(all_queues)s::bool OR gate.name = ANY (%(queues)s::text[]))
""")


def ask(connection: OwnConnection, queues: Collection[str]) -> psycopg.Cursor[Any]:
    """Asks for the limited ones among `queues`, or among all; by_queue() reads the answer. Raises psycopg.Error."""
    parameters = {"all_queues": not queues, "queues": list(queues)}
    return connection.execute(GATES, parameters, prepare=True)


def by_queue(rows: psycopg.Cursor[Any]) -> dict[str, Gate]:
    return {row[0]: Gate._make(row) for row in rows}


def queue_gate(queue: str) -> str:
    return f"queue {queue}"


def key_gate(key: str) -> str:
    return f"key {key}"


# No table: the names are hashed, and two that share a hash only get in each other's way.
LOCK = f"""
SELECT gate FROM unnest(%(gates)s::text[]) AS g(gate)
WHERE pg_try_advisory_xact_lock({ADVISORY_CLASS}, hashtext(gate))
"""

# The jobs that keep their concurrency key while they wait (queue/waits.py), and from then on until they run. Index:
# pgonly_wait_kept, then the primary key. Whether there are any is asked once in a statement: mostly there are none.
KEPT_JOBS = qualified("""pgonly_wait AS wait JOIN pgonly_job AS kept
        ON kept.id = wait.job_id AND kept.lease_epoch = wait.lease_epoch AND kept.state || '' IN ({states})
    WHERE wait.kept_key = {key}""")
ARE_KEPT = qualified("(SELECT true FROM pgonly_wait WHERE kept_key IS NOT NULL ORDER BY kept_key LIMIT 1)")
KEEPING = f"""CASE WHEN {ARE_KEPT} THEN (
        SELECT count(DISTINCT kept.id)
        FROM {KEPT_JOBS.format(key="{key}", states="'scheduled', 'ready'")}) ELSE 0 END"""
# Index: pgonly_job_limited_running.
COUNT_OF_KEYS = qualified(f"""
SELECT key, (SELECT count(*) FROM pgonly_job
    WHERE slots IS NOT NULL AND state = 'running' AND concurrency_key = k.key) + {KEEPING.format(key="k.key")}
FROM unnest(%(keys)s::text[]) AS k(key)
""")


def ask_keys(connection: OwnConnection, keys: Collection[str]) -> psycopg.Cursor[Any]:
    """Asks how many jobs of each key run, or keep it. Raises psycopg.Error."""
    return connection.execute(COUNT_OF_KEYS, {"keys": list(keys)}, prepare=True)


# Index: the primary key of pgonly_queue_tokens. It runs under the queue's gate, so no other claim writes the row.
SPEND = qualified("""
INSERT INTO pgonly_queue_tokens (queue, tokens, refilled_at)
SELECT queue, tokens, to_timestamp(at)
FROM unnest(%(queues)s::text[], %(tokens)s::float8[], %(at)s::float8[]) AS s(queue, tokens, at)
ON CONFLICT (queue) DO UPDATE SET tokens = excluded.tokens, refilled_at = excluded.refilled_at
""")


def spend(connection: OwnConnection, limited: Mapping[str, Gate], started: Mapping[str, int]) -> None:
    """Takes the tokens of the jobs of each queue that start. Raises psycopg.Error."""
    rated = [(gate, gate.tokens) for gate in limited.values() if gate.tokens is not None]
    spent = [
        (gate.queue, tokens - started[gate.queue], gate.at) for gate, tokens in rated if gate.queue in started
    ]
    if spent:
        queues, tokens, at = map(list, zip(*spent, strict=True))
        connection.execute(SPEND, {"queues": queues, "tokens": tokens, "at": at}, prepare=True)
