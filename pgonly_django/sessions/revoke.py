"""Ending sessions: by their owner, by support, by time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth import logout
from django.db import connections

from pgonly_django.conf import settings
from pgonly_django.models import Session
from pgonly_django.models.session import hash_key, user_id_of
from pgonly_django.sessions import statements
from pgonly_django.sessions.expiry import cookie_age

if TYPE_CHECKING:
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


# Walks pgonly_session_expires from its start; rows that another pruner holds are that one's. As an array: a subquery
# that locks would take another batch each time a nested loop starts it anew.
PRUNE = """
WITH pruned AS (
    DELETE FROM pgonly_session WHERE key_hash = ANY (ARRAY(
        SELECT key_hash FROM pgonly_session
        WHERE expires_hour <= floor(extract(epoch FROM statement_timestamp()) / 3600)::integer
          AND expires_at < statement_timestamp() - %s * interval '1 second'
        ORDER BY expires_hour
        LIMIT %s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM pruned
"""


def prune_expired(alias: str, limit: int = 1000) -> int:
    """Delete up to `limit` expired sessions of the database `alias`; says how many it deleted."""
    with connections[alias].cursor() as cursor:
        cursor.execute(PRUNE, [_grace_seconds(), limit])
        return int(cursor.fetchone()[0])


def _grace_seconds() -> float:
    """While an old engine is asked for what is not here, an expired row still says: this one was moved."""
    return float(cookie_age()) if settings().session_fallback_engine else 0.0
