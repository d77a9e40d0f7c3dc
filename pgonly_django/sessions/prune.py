"""Deletes expired sessions, for the worker and `clearsessions`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.db import IntegrityError, connections

from pgonly_django.conf import settings
from pgonly_django.database.on_django import all_rows
from pgonly_django.events import emit
from pgonly_django.models.pruning import delete_what_can_go
from pgonly_django.sessions.expiry import cookie_age
from pgonly_django.tables import qualified

HAS_EXPIRED = "expires_at < statement_timestamp() - %(grace)s * interval '1 second'"
# Walks the index pgonly_session_expires from its start. Rows that another process is pruning are skipped.
EXPIRED = qualified(f"""
    SELECT key_hash FROM pgonly_session
    WHERE expires_hour <= floor(extract(epoch FROM statement_timestamp()) / 3600)::integer
      AND {HAS_EXPIRED}
    ORDER BY expires_hour
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
""")
# An array: in a nested loop a subquery that locks would take another batch each time it starts.
PRUNE = qualified(f"""
WITH pruned AS (
    DELETE FROM pgonly_session WHERE key_hash = ANY (ARRAY({EXPIRED}))
    RETURNING 1
)
SELECT count(*) FROM pruned
""")
# Index of both: the primary key.
PRUNE_THESE = qualified(
    f"DELETE FROM pgonly_session WHERE key_hash = ANY (%(keys)s::bytea[]) AND {HAS_EXPIRED} RETURNING 1"
)
# The row loses its data, which would be valid again for that day.
PUT_OFF = qualified(f"""
UPDATE pgonly_session SET data = NULL, user_id = NULL, expires_at = statement_timestamp() + interval '1 day'
WHERE key_hash = %(key)s::bytea AND {HAS_EXPIRED} RETURNING 1
""")


def prune_expired(alias: str, limit: int = 1000) -> int:
    """Deletes up to `limit` expired sessions of the database `alias`. Returns how many it deleted or put off.

    A session that cannot be deleted, because a row of the project refers to it, loses its data and is tried again a day
    later.
    """
    try:
        ((pruned,),) = all_rows(alias, PRUNE, {"grace": _grace_seconds(), "limit": limit})
        return int(pruned)
    except IntegrityError:
        if connections[alias].in_atomic_block:
            raise  # the caller's transaction is lost
        return _prune_what_can_go(alias, limit)


def _prune_what_can_go(alias: str, limit: int) -> int:
    grace = {"grace": _grace_seconds()}

    def delete(keys: Sequence[str]) -> int:
        hashes = [bytes.fromhex(key) for key in keys]
        return len(all_rows(alias, PRUNE_THESE, {**grace, "keys": hashes}))

    def put_off(key: str) -> None:
        all_rows(alias, PUT_OFF, {**grace, "key": bytes.fromhex(key)})

    keys = [bytes(key).hex() for (key,) in all_rows(alias, EXPIRED, {**grace, "limit": limit})]
    pruned = delete_what_can_go(keys, delete, put_off)
    named = "; ".join(f"{kept.id}: {kept.reason}" for kept in pruned.kept[:10])
    message = f"{len(pruned.kept)} expired session(s) cannot be deleted and are kept for a day more. {named}"
    emit("sessions.kept", message, level=logging.WARNING, sessions=[kept.id for kept in pruned.kept])
    return pruned.deleted + len(pruned.kept)


def _grace_seconds() -> float:
    """Returns how long an expired row stays: with a previous engine it says that this session was moved here."""
    return float(cookie_age()) if settings().session_previous_engine else 0.0
