"""Ending sessions: by their owner, by support, by time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from django.contrib.auth import logout
from django.db import IntegrityError, connections

from pgonly_django.conf import settings
from pgonly_django.events import emit
from pgonly_django.models import Session
from pgonly_django.models.pruning import delete_what_can_go
from pgonly_django.models.session import hash_key, user_id_of
from pgonly_django.sessions import statements
from pgonly_django.sessions.expiry import cookie_age

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.contrib.auth.base_user import AbstractBaseUser
    from django.http import HttpRequest

    from pgonly_django.models.session import SessionQuerySet


def revoke_all(user: AbstractBaseUser) -> int:
    """Log `user` out everywhere; each browser notices at its next request. Says how many sessions ended.

    Those that are still in the fallback engine end at their next request, and are not counted.
    """
    _keep_out(user)
    return Session.objects.for_user(user).revoke()


def revoke_other_sessions(request: HttpRequest) -> int:
    """Log the request's user out everywhere but here. Returns how many sessions ended, 0 for a visitor."""
    user, here = request.user, own_key_hash(request)
    if not user.is_authenticated or here is None:
        return 0
    _keep_out(user)
    return Session.objects.for_user(user).exclude(key_hash=here).revoke()


def revoke_for(request: HttpRequest, sessions: SessionQuerySet) -> int:
    """End `sessions`; the request's own among them by a logout, so that it still gets its response."""
    here = own_key_hash(request)
    is_among = sessions.filter(key_hash=here).exists()
    count = sessions.exclude(key_hash=here).revoke()
    if is_among:
        logout(request)
    return count + is_among


def own_key_hash(request: HttpRequest) -> str | None:
    key = request.session.session_key
    return hash_key(key).hex() if key else None


def _keep_out(user: AbstractBaseUser) -> None:
    if settings().session_fallback_engine:
        statements.bury_user(user_id_of(user), cookie_age())


# Walks pgonly_session_expires from its start; rows that another pruner holds are that one's.
EXPIRED = """
    SELECT key_hash FROM pgonly_session
    WHERE expires_hour <= floor(extract(epoch FROM statement_timestamp()) / 3600)::integer
      AND expires_at < statement_timestamp() - %(grace)s * interval '1 second'
    ORDER BY expires_hour
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
"""
# As an array: a subquery that locks would take another batch each time a nested loop starts it anew.
PRUNE = f"""
WITH pruned AS (
    DELETE FROM pgonly_session WHERE key_hash = ANY (ARRAY({EXPIRED}))
    RETURNING 1
)
SELECT count(*) FROM pruned
"""
# Both: index, the primary key.
PRUNE_THESE = """
DELETE FROM pgonly_session WHERE key_hash = ANY (%(keys)s::bytea[])
    AND expires_at < statement_timestamp() - %(grace)s * interval '1 second'
"""
# Ended, or it would be valid again.
PUT_OFF = """
UPDATE pgonly_session SET data = NULL, user_id = NULL, expires_at = statement_timestamp() + interval '1 day'
WHERE key_hash = %(key)s::bytea AND expires_at < statement_timestamp() - %(grace)s * interval '1 second'
"""
KEPT_NAMED = 10


def prune_expired(alias: str, limit: int = 1000) -> int:
    """Delete up to `limit` expired sessions of the database `alias`; says how many it deleted or put off.

    One that cannot be deleted, a row of the project's referring to it, ends without its data and is tried again a
    day later.
    """
    with connections[alias].cursor() as cursor:
        try:
            cursor.execute(PRUNE, {"grace": _grace_seconds(), "limit": limit})
            return int(cursor.fetchone()[0])
        except IntegrityError:
            if connections[alias].in_atomic_block:
                raise  # whose transaction has failed
            return _prune_apart(cursor, limit)


def _prune_apart(cursor: Any, limit: int) -> int:
    """See prune_expired(), when one of the batch cannot be deleted."""
    grace = {"grace": _grace_seconds()}

    def delete(keys: Sequence[str]) -> int:
        cursor.execute(PRUNE_THESE, {**grace, "keys": [bytes.fromhex(key) for key in keys]})
        return int(cursor.rowcount)

    def put_off(key: str) -> None:
        cursor.execute(PUT_OFF, {**grace, "key": bytes.fromhex(key)})

    cursor.execute(EXPIRED, {**grace, "limit": limit})
    keys = [bytes(key).hex() for (key,) in cursor.fetchall()]
    pruned = delete_what_can_go(keys, delete, put_off, IntegrityError)
    named = "; ".join(f"{kept.id}: {kept.reason}" for kept in pruned.kept[:KEPT_NAMED])
    message = f"{len(pruned.kept)} expired session(s) cannot be deleted and are kept for a day more. {named}"
    emit("sessions.kept", message, level=logging.WARNING, sessions=[kept.id for kept in pruned.kept])
    return pruned.deleted + len(pruned.kept)


def _grace_seconds() -> float:
    """While an old engine is asked for what is not here, an expired row still says: this one was moved."""
    return float(cookie_age()) if settings().session_fallback_engine else 0.0
