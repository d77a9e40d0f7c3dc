"""Reads the sessions of the engine that a site used before. No error there is taken for a session that is gone."""

from __future__ import annotations

import logging
from copy import copy
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from django.contrib.auth import SESSION_KEY as USER_KEY
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.cache import SessionStore as CacheStore
from django.core.cache.backends.base import InvalidCacheKey
from django.utils import timezone

from pgonly_django.events import emit
from pgonly_django.sessions import expiry
from pgonly_django.sessions.codec import Codec


@dataclass(frozen=True, slots=True)
class PreviousSession:
    key: str
    data: dict[str, Any]
    seconds_left: float

    @property
    def user_id(self) -> str | None:
        user_id = self.data.get(USER_KEY)
        return None if user_id is None else str(user_id)


def store_of(engine: str, key: str | None = None) -> Any:
    return import_module(engine).SessionStore(key)


def read(engine: str, key: str) -> PreviousSession | None:
    """None when `engine` has no such session. Raises what its database or cache raises."""
    if not key.isprintable():  # no engine made it, and a database may refuse it
        return None
    store = store_of(engine, key)
    data = _data(store)
    return PreviousSession(key, data, _seconds_left(store, key, data)) if data else None


def column_of(session: PreviousSession, codec: Codec) -> tuple[str, int]:
    """The data as stored here, and how many values are left out: a cache accepts values that no serializer encodes."""
    entries, refused = codec.encode_what_can_be(session.data)
    for key in refused:
        message = f"The session value under {key!r} cannot be encoded here and was left out"
        emit("sessions.value_left_out", message, level=logging.WARNING, key=key)
    return codec.column(entries), len(refused)


def raising(cache: Any) -> Any:
    """`cache`, or a copy of it that raises errors where it would answer "no such key", which would end sessions."""
    # Of our cache (cache/django_api.py), and of django-redis.
    is_ours = hasattr(cache, "_on_error")
    raises = {"_on_error": "raise", "_strict": True} if is_ours else {"_ignore_exceptions": False}
    silent = {name: value for name, value in raises.items() if getattr(cache, name, value) != value}
    if silent:  # else the cache itself serves, with the connections that it has
        cache = copy(cache)
        vars(cache).update(silent)
    return cache


def _data(store: Any) -> Any:
    if type(store).load is not CacheStore.load:
        return store.load()
    try:  # the store's own load() takes an error for a session that is gone
        return raising(store._cache).get(store.cache_key)  # noqa: SLF001 - there is no other way
    except InvalidCacheKey:  # a cookie that no engine made
        return None


def _seconds_left(store: SessionBase, key: str, data: dict[str, Any]) -> float:
    """From the row where the engine has one. A cache does not tell, so there the whole age begins again."""
    model = getattr(store, "model", None)
    if model is not None:
        for expire_date in model.objects.filter(session_key=key).values_list("expire_date", flat=True):
            return float(expiry.bounded((expire_date - timezone.now()).total_seconds()))
    return float(expiry.age(data.get("_session_expiry"), timezone.now(), store.get_session_cookie_age()))
