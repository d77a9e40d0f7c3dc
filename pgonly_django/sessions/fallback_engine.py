"""PGONLY["SESSION_FALLBACK_ENGINE"]: the engine that a site used before is asked for sessions that are not here yet.

The switch then logs no user out. A session is moved here at its first request. The previous engine keeps it too, so
that servers which still run the old code can serve it.
"""

from __future__ import annotations

import logging

from django.contrib.sessions.backends.db import SessionStore as TableStore

from pgonly_django.conf import settings
from pgonly_django.events import emit
from pgonly_django.sessions import previous_engine, statements
from pgonly_django.sessions.codec import Codec
from pgonly_django.sessions.expiry import cookie_age
from pgonly_django.sessions.statements import Client


def move(session_key: str, codec: Codec, client: Client, *, is_imported: bool = False) -> bool:
    """Move the session here if the previous engine has it. True: the row here may be another now, load it again.

    An ended or expired row here keeps the previous engine's session out. `is_imported`: there is a row here that was
    imported and not used since. The previous engine, which may have served the session after the import, knows
    better: its data replace the row's, and if it has ended the session, the row ends too.
    """
    engine = settings().session_fallback_engine
    if not engine:
        return False
    previous = previous_engine.read(engine, session_key)
    if previous is None:
        if is_imported:
            statements.end_imported(session_key)
        return is_imported
    data, _ = previous_engine.column_of(previous, codec)
    moved = statements.move(session_key, data, previous.user_id, previous.seconds_left, client)
    if moved:
        emit("sessions.moved", "Moved a session from the fallback engine", user=previous.user_id)
    elif moved is False:
        _end_there(session_key)
    return True


def end(session_key: str) -> bool:
    """End the session in both engines. The row that stays here, without data, keeps it from coming back.

    False, and nothing is done, without a fallback engine.
    """
    if not settings().session_fallback_engine:
        return False
    statements.keep_ended(session_key, cookie_age())
    _end_there(session_key)
    return True


def _end_there(session_key: str) -> None:
    """In a table: within the caller's transaction. In a cache, which knows no rollback: after the commit."""
    store = previous_engine.store_of(settings().session_fallback_engine)
    if isinstance(store, TableStore):
        store.delete(session_key)
        return

    def delete() -> None:
        """An error is only logged: the row without data keeps the session out of here already."""
        try:
            store.delete(session_key)
        except Exception as error:  # noqa: BLE001 - what a cache's client may raise has no bounds
            message = f"A session that ended here may still live in the fallback engine: {error!r}"
            emit("sessions.fallback_failed", message, level=logging.WARNING)

    if not statements.after_commit(delete):
        delete()
