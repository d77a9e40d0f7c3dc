"""The engine that a site moves away from, asked for sessions that are not here yet.

With PGONLY["SESSION_FALLBACK_ENGINE"] set nobody is logged out by the switch. A session is moved on its first
request here and left in the old engine, so that servers with the old code go on serving it meanwhile.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.contrib.auth import SESSION_KEY as USER_KEY
from django.utils import timezone

from pgonly_django.conf import settings
from pgonly_django.events import emit
from pgonly_django.sessions import statements

if TYPE_CHECKING:
    from django.contrib.sessions.backends.base import SessionBase

    from pgonly_django.sessions.codec import Codec
    from pgonly_django.sessions.statements import Client


def is_set() -> bool:
    return bool(settings().session_fallback_engine)


def moved_here(session_key: str, codec: Codec, client: Client) -> bool:
    """Is it worth looking here again? An ended or expired row keeps the old engine's session out."""
    if not is_set():
        return False
    old = _engine(session_key)
    session = old.load()
    if not session:
        return False
    user_id = session.get(USER_KEY)
    data = codec.column(codec.entries(session))
    user = None if user_id is None else str(user_id)
    if statements.insert(session_key, data, user, _seconds_left(old, session_key, session), client):
        emit("sessions.moved", "Moved a session from the fallback engine", user=user)
    return True


def end(session_key: str) -> None:
    """End the session there and here, leaving a row without data: it comes back neither way."""
    statements.bury(session_key, django_settings.SESSION_COOKIE_AGE)
    _engine().delete(session_key)


def _engine(session_key: str | None = None) -> SessionBase:
    engine = import_module(settings().session_fallback_engine)
    store: SessionBase = engine.SessionStore(session_key)
    return store


def _seconds_left(old: SessionBase, session_key: str, session: dict[str, Any]) -> float:
    """By the old row where there is one; a cache does not tell, so there the whole age begins anew."""
    model = getattr(old, "model", None)
    if model is not None:
        dates = model.objects.filter(session_key=session_key).values_list("expire_date", flat=True)
        for expire_date in dates:
            return float((expire_date - timezone.now()).total_seconds())
    return float(old.get_expiry_age(expiry=session.get("_session_expiry")))
