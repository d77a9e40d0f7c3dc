"""NOTIFY, which tells workers that there is something to do: after the commit, coalesced.

While jobs are enqueued in close succession, a process sends one NOTIFY per queue and COALESCE_SECONDS. A worker that
gets one looks again COALESCE_SECONDS later, so it misses nothing that was held back. A NOTIFY inside the business
transaction would make every commit wait for one lock of the whole database (8 clients: 4,000 instead of 12,900 commits
a second). Outside of transactions it is sent in the same round trip as the INSERT, in its own transaction.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

import psycopg
from django.db import Error, transaction

from pgonly_django.database import wake_urls
from pgonly_django.database.on_django import FollowUp, first_row
from pgonly_django.database.statement import Params, Statement
from pgonly_django.events import emit

CHANNEL = "pgonly_jobs"
COALESCE_SECONDS = 0.010
# Jobs further apart than this wake the workers one by one: a NOTIFY costs 0.1 ms, a held back one up to 12.
DENSE_SECONDS = 0.002

# Payloads: "ready <queue>", "limited <queue>" (there is a job for a limited claim, or room for one), "due" (a new
# scheduled row), "event" (one was sent), "cancel <job id>", "schedules" (one of them has changed), "worker <worker id>"
# (a person asks something of it), "batch <batch id>" (it may be over, and no worker has ended its last job); "ready *"
# and "limited *": any queue; "worker *": any worker; "batch *": any batch.
READY, LIMITED, DUE, CANCEL, SCHEDULES = "ready", "limited", "due", "cancel", "schedules"
EVENT, WORKER, BATCH = "event", "worker", "batch"
ANY_QUEUE = ANY_WORKER = ANY_BATCH = "*"

# Tells workers of `rows`, which have the queue and the slots of jobs that a statement makes ready.
WAKE_WORKERS_OF = f"""(SELECT count(pg_notify('{CHANNEL}', kind || ' ' || queue)) FROM (
        SELECT DISTINCT queue, CASE WHEN slots IS NULL THEN '{READY}' ELSE '{LIMITED}' END AS kind
        FROM {{rows}}) AS told)"""
NOTIFY = Statement("SELECT pg_notify(%(channel)s, %(payload)s)")

_last_sent: dict[tuple[str, str], float] = {}
_last_asked: dict[tuple[str, str], float] = {}
# When the statement began that a NOTIFY may follow in the same round trip, and how long the one before took.
_began: dict[tuple[str, str], float] = {}
_took: dict[tuple[str, str], float] = {}


def ready(queue: str) -> str:
    return f"{READY} {queue}"


def limited(queue: str) -> str:
    return f"{LIMITED} {queue}"


def cancel(job_id: Any) -> str:
    return f"{CANCEL} {job_id}"


def worker(worker_id: Any) -> str:
    return f"{WORKER} {worker_id}"


def batch(batch_id: Any) -> str:
    return f"{BATCH} {batch_id}"


def wake_after_commit(alias: str, payload: str, sent: FollowUp | None = None) -> None:
    """Sends `payload` after the caller's transaction has committed, and not at all when it rolls back. `sent`: see
    follow_up()."""
    transaction.on_commit(partial(send_coalesced, alias, payload, sent), using=alias, robust=True)


def send_at_commit(alias: str, payload: str) -> None:
    """Sends `payload` in the caller's transaction: it arrives exactly if that commits, which costs the commit a lock of
    the whole database. It serves changes that are rare, and would otherwise have to be looked for."""
    first_row(alias, NOTIFY, _params(payload))
    wake_urls.post_after_commit(alias)


def follow_up(alias: str, payload: str) -> FollowUp | None:
    """Returns a NOTIFY to send in the same round trip as the statement that it announces; None where it would be held
    back, if the statement takes as long as the one before. To decide this after the statement cost nine of ten NOTIFYs
    a separate round trip. Works only outside of transactions. Call send_coalesced() with it after the statement.
    """
    key, now = (alias, payload), time.monotonic()
    _began[key] = now
    is_held_back = _is_held_back(key, now + _took.get(key, 0.0))
    return None if is_held_back else FollowUp(NOTIFY, _params(payload))


def send_coalesced(alias: str, payload: str, sent: FollowUp | None = None) -> None:
    """Sends `payload`, or holds it back when it comes in close succession. A failure costs a poll, never the caller.

    A wish to cancel, or to stop a worker, is never held back: no worker looks for it a second time. Where `sent` was
    sent already, it only notes that.
    """
    key, now = (alias, payload), time.monotonic()
    began = _began.pop(key, None)
    if began is None:
        is_held_back = _is_held_back(key, now)
    else:
        # follow_up() has decided. But no second look after an earlier NOTIFY sees what was committed too late.
        is_held_back = sent is None and now - _last_sent.get(key, wake_urls.LONG_AGO) < COALESCE_SECONDS
        _took[key] = now - began
    _last_asked[key] = now
    if sent is not None and sent.is_done:
        _last_sent[key] = sent.made_at
    elif not is_held_back:
        try:
            first_row(alias, NOTIFY, _params(payload))
        except Error as error:
            emit("queue.notify_failed", f"Could not wake the workers: {error}", level=logging.WARNING)
        else:
            # The time before sending: a row held back at this moment is committed before the second look.
            _last_sent[key] = now
    if not payload.startswith(CANCEL):  # a worker that sleeps runs no job
        wake_urls.post_soon()


def _is_held_back(key: tuple[str, str], now: float) -> bool:
    if key[1].startswith((CANCEL, WORKER)):
        return False
    is_dense = now - _last_asked.get(key, wake_urls.LONG_AGO) < DENSE_SECONDS
    return is_dense and now - _last_sent.get(key, wake_urls.LONG_AGO) < COALESCE_SECONDS


def _params(payload: str) -> Params:
    return {"channel": CHANNEL, "payload": payload}


NOTIFY_ALL = "SELECT pg_notify(%(channel)s, payload) FROM unnest(%(payloads)s::text[]) AS p(payload)"


def send(connection: psycopg.Connection[Any], *payloads: str) -> None:
    """Sends `payloads` on a worker's connection. Raises psycopg.Error. Only new work among these wakes workers that
    sleep: one with a job that waits for room does not sleep.
    """
    connection.execute(NOTIFY_ALL, {"channel": CHANNEL, "payloads": list(payloads)}, prepare=True)
    if any(payload.startswith((READY, DUE)) for payload in payloads):
        wake_urls.post_soon()
