"""The engine that a site moves away from, asked for sessions that are not here yet.

With PGONLY["SESSION_FALLBACK_ENGINE"] set nobody is logged out by the switch. A session is moved on its first
request here and left in the old engine, so that servers with the old code go on serving it meanwhile.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from pgonly_django.conf import settings
from pgonly_django.events import emit
from pgonly_django.sessions import old_engine, statements
from pgonly_django.sessions.expiry import cookie_age

if TYPE_CHECKING:
    from django.contrib.sessions.backends.base import SessionBase

    from pgonly_django.sessions.codec import Codec
    from pgonly_django.sessions.statements import Client


def is_set() -> bool:
    return bool(settings().session_fallback_engine)


def moved_here(session_key: str, codec: Codec, client: Client, *, is_copied: bool = False) -> bool:
    """Is it worth looking here again? An ended or expired row keeps the old engine's session out.

    `is_copied`: there is a row here that was imported and not used since. The old engine, which may have served
    the session after that, knows better: also that it is over.
    """
    if not is_set():
        return False
    old = old_engine.read(settings().session_fallback_engine, session_key)
    if old is None:
        if is_copied:
            statements.end_copy(session_key)
        return is_copied
    data, _ = old_engine.column_of(old, codec)
    moved = statements.move(session_key, data, old.user_id, old.seconds_left, client)
    if moved:
        emit("sessions.moved", "Moved a session from the fallback engine", user=old.user_id)
    elif moved is False:
        _end_there(session_key)
    return True


def end(session_key: str) -> None:
    """End the session there and here, leaving a row without data: it comes back neither way."""
    statements.bury(session_key, cookie_age())
    _end_there(session_key)


def _end_there(session_key: str) -> None:
    """In a table within the caller's transaction. Elsewhere no rollback takes it back: so once that is committed."""
    store = old_engine.store_of(settings().session_fallback_engine)
    if old_engine.is_in_table(store):
        store.delete(session_key)
        return
    delete = partial(_delete, store, session_key)
    if not statements.after_commit(delete):
        delete()


def _delete(store: SessionBase, session_key: str) -> None:
    """An error is only logged: the row without data keeps the session out of here already."""
    try:
        store.delete(session_key)
    except Exception as error:  # noqa: BLE001 - what a cache's client may raise has no bounds
        message = f"A session that ended here may still live in the fallback engine: {error!r}"
        emit("sessions.fallback_failed", message, level=logging.WARNING)
