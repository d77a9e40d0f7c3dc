"""The session store. A save goes through codec.py and statements.py to Django's own connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import SESSION_KEY as USER_KEY
from django.contrib.sessions.backends.base import VALID_KEY_CHARS, CreateError, SessionBase, UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.db import router
from django.utils import timezone
from django.utils.crypto import get_random_string

from pgonly_django.conf import settings
from pgonly_django.models import Session
from pgonly_django.sessions import expiry, previous_engine, statements
from pgonly_django.sessions.codec import EncodedEntries, SessionCodec, codec_for
from pgonly_django.sessions.prune import prune_expired
from pgonly_django.sessions.statements import Client, Expiry, StoredSession

EXPIRY_KEY = "_session_expiry"  # of set_expiry()
NEVER = float("inf")
PRUNE_BATCH = 1000


class SessionStore(SessionBase):
    """Django's session contract over one row per session.

    The async methods of SessionBase run these methods in Django's thread for database work, with one change of thread
    each: Django's connections are bound to threads, and a request's session must be on the request's connection.
    """

    # SessionBase's properties: the dict, loaded on first use; and its key, or None.
    _session: dict[Any, Any]
    session_key: Any
    # Set by pgonly_django.middleware.SessionMiddleware.
    client = Client()
    # The members of the row as far as this request knows. None: the next save replaces them all.
    _stored: EncodedEntries | None = None
    # What the last save sent. It becomes _stored at the commit, unless another save or clear() came in between.
    _sent: EncodedEntries | None = None
    _idle_seconds = NEVER
    # Whether the expiry comes from this request, and the row's member of it when it was loaded, as JSON.
    _sets_expiry = False
    _found_expiry: str | None = None

    @classmethod
    def get_model_class(cls) -> type[Session]:
        return Session

    @property
    def codec(self) -> SessionCodec:
        return codec_for(self.serializer, self.key_salt)

    def load(self) -> dict[Any, Any]:
        key = self.session_key
        if not isinstance(key, str):
            return {}
        stored = statements.load(key)
        if stored is None and previous_engine.move(key, self.codec, self.client):
            stored = statements.load(key, just_written=True)
        if stored is None:
            self._session_key = None
            return {}
        return self._read(stored)

    def exists(self, session_key: str | None) -> bool:
        return session_key is not None and statements.exists(session_key)

    def create(self) -> None:
        """Inserts a row under a new key. The INSERT itself tells whether the key is free."""
        while True:
            self._session_key = self._get_new_session_key()
            with suppress(CreateError):
                self.save(must_create=True)
                self.modified = True
                return

    def save(self, must_create: bool = False) -> None:
        """Writes what this request changed, or nothing when it changed nothing and the row was written just now. Raises
        UpdateError when the session was ended elsewhere, and CreateError when `must_create` is true and the key is
        taken.
        """
        if self.session_key is None:
            self.create()
            return
        session = self._get_session(no_load=must_create)  # type: ignore[attr-defined] # missing in the stubs
        if self.session_key is None:  # it was not found: a key that a visitor made up is never used
            self.create()
            return
        entries = self.codec.encode(session)
        if must_create or self._stored is None:
            self._write_all(entries, must_create)
        elif not self._merge(entries) and self._is_touch_due():
            if not statements.touch(self.session_key, self._expiry(), self.client):
                raise UpdateError
            self._idle_seconds = 0

    def touch_if_due(self) -> None:
        """Notes when and from where the session was used, at most once in SESSION_TOUCH_SECONDS."""
        if self._stored is not None and self.session_key and self._is_touch_due():
            statements.touch(self.session_key, Expiry(), self.client)
            self._idle_seconds = 0

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None and not previous_engine.end(key):
            statements.delete(key)
        if key == self.session_key:
            self._stored = self._sent = None  # so that a later save writes, and finds that the row is gone

    def clear(self) -> None:
        super().clear()
        self._stored = self._sent = None

    def cycle_key(self) -> None:
        """Gives the row a new key. save() writes what changed.

        Raises SessionInterrupted when the session of a logged-in user was ended elsewhere: it must not come back under
        the new key.
        """
        session = self._session
        old = self.session_key
        if old is None:
            self.create()
            return
        new = self._get_new_session_key()
        if statements.change_key(old, new):
            previous_engine.end(old)
            self._session_key = new
            self.modified = True
        elif USER_KEY in session:
            raise SessionInterrupted("The session was ended while the request was changing its key.")
        else:
            self.create()

    async def acycle_key(self) -> None:
        """See cycle_key()."""
        await sync_to_async(self.cycle_key)()

    def set_expiry(self, value: Any) -> None:
        """Does what Django's does, with at most 36,500 days. Raises TypeError or ValueError for other values."""
        super().set_expiry(expiry.checked(value))

    async def aset_expiry(self, value: Any) -> None:
        """See set_expiry()."""
        await super().aset_expiry(expiry.checked(value))

    def get_expiry_age(self, **kwargs: Any) -> float:  # type: ignore[override] # a float may be set, also in Django
        """Returns seconds, never more than 36,500 days; SESSION_COOKIE_AGE where the stored expiry cannot be read."""
        known = kwargs["expiry"] if "expiry" in kwargs else self.get(EXPIRY_KEY)
        return expiry.age(known, kwargs.get("modification") or timezone.now(), self.get_session_cookie_age())

    async def aget_expiry_age(self, **kwargs: Any) -> float:  # type: ignore[override] # as above
        """See get_expiry_age()."""
        known = kwargs["expiry"] if "expiry" in kwargs else await self.aget(EXPIRY_KEY)
        return self.get_expiry_age(**{**kwargs, "expiry": known})

    def get_expiry_date(self, **kwargs: Any) -> datetime:
        """Returns the time when the session expires; see get_expiry_age()."""
        known = kwargs["expiry"] if "expiry" in kwargs else self.get(EXPIRY_KEY)
        return expiry.date(known, kwargs.get("modification") or timezone.now(), self.get_session_cookie_age())

    async def aget_expiry_date(self, **kwargs: Any) -> datetime:
        """See get_expiry_date()."""
        known = kwargs["expiry"] if "expiry" in kwargs else await self.aget(EXPIRY_KEY)
        return self.get_expiry_date(**{**kwargs, "expiry": known})

    def get_session_cookie_age(self) -> float:  # type: ignore[override] # a float may be set, also in Django
        return expiry.cookie_age()

    @classmethod
    def clear_expired(cls) -> None:
        """Removes expired sessions in batches, so that no lock is held for long."""
        alias = router.db_for_write(Session)
        while prune_expired(alias, PRUNE_BATCH) >= PRUNE_BATCH:
            pass

    def _get_new_session_key(self) -> str:
        return get_random_string(32, VALID_KEY_CHARS)

    def _read(self, stored: StoredSession) -> dict[Any, Any]:
        session, self._stored = self.codec.decode(stored.column)
        self._idle_seconds = NEVER if stored.idle_seconds is None else stored.idle_seconds
        # The member as it stands in the row: encoded again it might be another text.
        if EXPIRY_KEY in stored.column:
            self._found_expiry = json.dumps(stored.column[EXPIRY_KEY])
        return session

    def _write_all(self, entries: EncodedEntries, must_create: bool) -> None:
        data, user_id, age = self.codec.column(entries), self._user_id(), self.get_expiry_age()
        if not must_create:
            self._update(partial(statements.replace, self.session_key, data, user_id, age, self.client))
        elif not statements.insert(self.session_key, data, user_id, age, self.client):
            raise CreateError
        self._sets_expiry = True
        self._wrote(entries)

    def _merge(self, entries: EncodedEntries) -> bool:
        """Returns False when there is nothing to send."""
        stored = self._stored or {}
        changed = {name: raw for name, raw in entries.items() if stored.get(name) != raw}
        removed = [name for name in stored if name not in entries]
        if not changed and not removed:
            return False
        user = (USER_KEY in changed or USER_KEY in removed, self._user_id())
        self._sets_expiry = self._sets_expiry or EXPIRY_KEY in changed or EXPIRY_KEY in removed
        column = self.codec.column(changed)
        self._update(
            partial(statements.merge, self.session_key, column, removed, user, self._expiry(), self.client)
        )
        self._wrote(entries)
        return True

    def _update(self, write: Callable[[], bool]) -> None:
        """Raises UpdateError when the session was ended. If its move was rolled back with a view, it is moved again."""
        if not write() and not (previous_engine.move(self.session_key, self.codec, self.client) and write()):
            raise UpdateError

    def _expiry(self) -> Expiry:
        return Expiry(float(self.get_expiry_age()), self._sets_expiry, self._found_expiry)

    def _wrote(self, entries: EncodedEntries) -> None:
        """Notes what was written. Until the commit a rollback may undo it, and the next save has to send it again."""
        self._idle_seconds = 0
        self._sent = entries

        def committed() -> None:
            if self._sent is entries:
                self._stored = entries

        statements.after_commit(committed)

    def _is_touch_due(self) -> bool:
        """Returns whether a touch is due. A short-lived session must not expire while it is in use."""
        return self._idle_seconds >= min(settings().session_touch_seconds, self.get_expiry_age() / 10)

    def _user_id(self) -> str | None:
        user_id = self._session.get(USER_KEY)
        return None if user_id is None else str(user_id)
