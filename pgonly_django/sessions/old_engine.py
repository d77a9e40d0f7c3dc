"""The engine that a site moves away from: its sessions, read so that no error is taken for a session that is gone."""

from __future__ import annotations

import logging
from copy import copy
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from django.contrib.auth import SESSION_KEY as USER_KEY
from django.contrib.sessions.backends.cache import SessionStore as CacheStore
from django.contrib.sessions.backends.db import SessionStore as TableStore
from django.core.cache.backends.base import InvalidCacheKey
from django.utils import timezone

from pgonly_django.events import emit
from pgonly_django.sessions import expiry

if TYPE_CHECKING:
    from django.contrib.sessions.backends.base import SessionBase

    from pgonly_django.sessions.codec import Codec


@dataclass(frozen=True, slots=True)
class OldSession:
    key: str
    data: dict[str, Any]
    seconds_left: float

    @property
    def user_id(self) -> str | None:
        user_id = self.data.get(USER_KEY)
        return None if user_id is None else str(user_id)


def store_of(engine: str, key: str | None = None) -> SessionBase:
    store: SessionBase = import_module(engine).SessionStore(key)
    return store


def read(engine: str, key: str) -> OldSession | None:
    """None when the old engine has no such session. Raises what its database or cache raises."""
    if not key.isprintable():  # no engine made it, and a database may refuse it
        return None
    store = store_of(engine, key)
    data = _data(store)
    return OldSession(key, data, _seconds_left(store, key, data)) if data else None


def column_of(session: OldSession, codec: Codec) -> tuple[str, int]:
    """The data as stored here, and how many values are not among them: a cache takes what no serializer encodes."""
    entries, left_out = codec.entries_that_fit(session.data)
    for key in left_out:
        message = f"The session value under {key!r} cannot be encoded here and was left out"
        emit("sessions.value_left_out", message, level=logging.WARNING, key=key)
    return codec.column(entries), len(left_out)


def is_in_table(store: SessionBase) -> bool:
    """Does the end of a session there roll back with the caller's transaction?"""
    return isinstance(store, TableStore)


def outspoken(cache: Any) -> Any:
    """As `cache`, but raising where it would answer an error with nothing, which would end every session here."""
    speaking = {"_on_error": "raise", "_ignore_exceptions": False}  # ours, django-redis'
    silent = {name: value for name, value in speaking.items() if getattr(cache, name, value) != value}
    if silent:  # else its own connections are used on
        cache = copy(cache)
        vars(cache).update(silent)
    return cache


def _data(store: Any) -> dict[str, Any] | None:
    if type(store).load is not CacheStore.load:
        loaded: dict[str, Any] = store.load()
        return loaded
    try:  # the store's own load() takes an error for a session that is gone
        cached: dict[str, Any] | None = outspoken(store._cache).get(store.cache_key)  # noqa: SLF001 - see above
    except InvalidCacheKey:  # a cookie of no engine's making
        return None
    return cached


def _seconds_left(store: SessionBase, key: str, data: dict[str, Any]) -> float:
    """By the old row where there is one; a cache does not tell, so there the whole age begins anew."""
    model = getattr(store, "model", None)
    if model is not None:
        for expire_date in model.objects.filter(session_key=key).values_list("expire_date", flat=True):
            return float(expiry.bounded((expire_date - timezone.now()).total_seconds()))
    return float(expiry.age(data.get("_session_expiry"), timezone.now(), store.get_session_cookie_age()))
