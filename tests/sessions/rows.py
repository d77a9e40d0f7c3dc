"""Sessions in the database, and what tests ask of them."""

from __future__ import annotations

import pickle
from importlib import import_module

from model_bakery import baker

from pgonly_django.models import Session
from pgonly_django.models.session import hash_key
from pgonly_django.sessions import SessionStore
from tests.sql import sql, value


def stored(values=(), **more) -> SessionStore:
    session = SessionStore()
    session.update({**dict(values), **more})
    session.save()
    return session


def again(session: SessionStore) -> SessionStore:
    return SessionStore(session.session_key)


def seen_seconds_ago(seconds: int) -> None:
    sql("UPDATE pgonly_session SET last_seen_at = now() - %s * interval '1 second'", seconds)


def switch_from(settings, engine: str, cache: str = "django.core.cache.backends.locmem.LocMemCache"):
    """The site used this engine of Django's before, on this cache. Its module."""
    settings.CACHES = {"default": {"BACKEND": cache}}
    settings.PGONLY = {"SESSION_PREVIOUS_ENGINE": f"django.contrib.sessions.backends.{engine}"}
    return import_module(settings.PGONLY["SESSION_PREVIOUS_ENGINE"])


OLD, NEW = (
    "the old key, of fifty characters or somewhat less",
    "the new key, of fifty characters or somewhat less",
)
PICKLE = f"{__name__}.PickleSerializer"


class PickleSerializer:
    def dumps(self, obj):
        return pickle.dumps(obj)

    def loads(self, data):
        return pickle.loads(data)


def session_of(user) -> SessionStore:
    return stored(_auth_user_id=str(user.pk))


def expired(count: int) -> None:
    for number in range(count):
        baker.make(Session, key_hash=hash_key(f"old-{number}").hex(), expires_at="2020-01-01T00:00Z", data={})


def waiting_for_us() -> int:
    """How many wait for the transaction of this very connection."""
    return value(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    )


def encrypt(settings, on: bool = True) -> None:
    settings.PGONLY = {"SESSION_ENCRYPT_DATA": on}


def column() -> str:
    return "".join(text for (text,) in sql("SELECT data::text FROM pgonly_session"))
