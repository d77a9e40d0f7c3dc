"""Ends sessions before they expire, for their owner or a person in the admin."""

from __future__ import annotations

from collections.abc import Iterable

from django.contrib.auth import logout
from django.contrib.auth.base_user import AbstractBaseUser
from django.http import HttpRequest

from pgonly_django.conf import settings
from pgonly_django.models import Session
from pgonly_django.models.session import SessionQuerySet, hash_key, hash_user, user_id_of
from pgonly_django.sessions import statements
from pgonly_django.sessions.expiry import cookie_age


def revoke_all(user: AbstractBaseUser) -> int:
    """Logs `user` out everywhere: each browser is logged out at its next request. Returns the number of sessions that
    ended.

    Sessions that are still in the previous engine end at their next request, and are not counted.
    """
    _end_in_previous_engine([user_id_of(user)])
    return Session.objects.for_user(user).revoke()


def revoke_other_sessions(request: HttpRequest) -> int:
    """Logs the request's user out everywhere except here. Returns the number of ended sessions."""
    user, here = request.user, own_key_hash(request)
    if not user.is_authenticated or here is None:
        return 0
    _end_in_previous_engine([user_id_of(user)])
    return Session.objects.for_user(user).exclude(key_hash=here).revoke()


def revoke_for(request: HttpRequest, sessions: SessionQuerySet) -> int:
    """Ends `sessions`. The request's own session ends by a logout, so that the request still gets its response."""
    here = own_key_hash(request)
    ends_own = sessions.filter(key_hash=here).exists()
    count = sessions.exclude(key_hash=here).revoke()
    if ends_own:
        logout(request)
    return count + ends_own


def revoke_users_for(request: HttpRequest, user_ids: Iterable[str]) -> int:
    """Does what revoke_all() does for each of these users, by the text of their primary keys. The request's own
    session, if it is among them, ends by a logout."""
    ids = list(user_ids)
    _end_in_previous_engine(ids)
    return revoke_for(request, Session.objects.filter(user_id__in=ids))


def own_key_hash(request: HttpRequest) -> str | None:
    key = request.session.session_key
    return hash_key(key).hex() if key else None


def _end_in_previous_engine(user_ids: Iterable[str]) -> None:
    if settings().session_previous_engine:
        for user_id in user_ids:
            statements.keep_ended(hash_user(user_id), cookie_age())
