"""PGONLY["SESSION_PREVIOUS_ENGINE"]: the engine that a site used before. Each of its sessions is moved here at its
first request, and pgonly_import_sessions moves those that are left.

The switch then logs no user out. The previous engine keeps what it has, so that servers that still run the old code can
serve it. An error there is never taken for a session that does not exist.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from itertools import islice
from typing import Any

from django.conf import settings as django_settings
from django.contrib.auth import SESSION_KEY as USER_KEY
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.cache import SessionStore as CacheStore
from django.contrib.sessions.backends.db import SessionStore as TableStore
from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheKey
from django.db import connections, router
from django.utils import timezone

from pgonly_django.conf import settings
from pgonly_django.events import emit
from pgonly_django.exceptions import CannotListKeysError
from pgonly_django.models import Session
from pgonly_django.models.session import hash_key, hash_user
from pgonly_django.sessions import expiry, statements
from pgonly_django.sessions.codec import SessionCodec
from pgonly_django.sessions.statements import Client
from pgonly_django.tables import qualified


@dataclass(frozen=True, slots=True)
class PreviousSession:
    key: str
    data: dict[str, Any]
    seconds_left: float

    @property
    def user_id(self) -> str | None:
        user_id = self.data.get(USER_KEY)
        return None if user_id is None else str(user_id)


def move(session_key: str, codec: SessionCodec, client: Client) -> bool:
    """Moves the session here if the previous engine has it. Returns True when there may be a row now: load it again. An
    ended or expired row here keeps the previous engine's session out.
    """
    if not settings().session_previous_engine or (previous := _read(session_key)) is None:
        return False
    data, _ = _column_of(previous, codec)
    moved = statements.move(session_key, data, previous.user_id, previous.seconds_left, client)
    if moved:
        emit("sessions.moved", "Moved a session from the previous engine", user=previous.user_id)
    elif moved is False:
        _end_there(session_key)
    return True


def end(session_key: str) -> bool:
    """Ends the session in both engines. The row that stays here, without data, keeps it from coming back.

    Without a previous engine it does nothing and returns False.
    """
    if not settings().session_previous_engine:
        return False
    statements.keep_ended(hash_key(session_key), expiry.cookie_age())
    _end_there(session_key)
    return True


def _end_there(session_key: str) -> None:
    """Ends a session: in a table within the caller's transaction, in a cache, which has no rollback, after its
    commit."""
    store = _store_of()
    if isinstance(store, TableStore):
        store.delete(session_key)
        return

    def delete() -> None:
        """Deletes the session there. An error is only logged: the row without data keeps the session out of here."""
        try:
            store.delete(session_key)
        except Exception as error:  # noqa: BLE001 - what a cache's client may raise has no bounds
            message = f"A session that ended here may still live in the previous engine: {error!r}"
            emit("sessions.previous_engine_failed", message, level=logging.WARNING)

    if not statements.after_commit(delete):
        delete()


def _store_of(key: str | None = None) -> Any:
    return import_module(settings().session_previous_engine).SessionStore(key)


def _read(key: str) -> PreviousSession | None:
    """Returns None when the engine has no such session. Raises what its database or cache raises."""
    if not key.isprintable():  # no engine made it, and a database may refuse it
        return None
    store = _store_of(key)
    data = _data(store)
    return PreviousSession(key, data, _seconds_left(store, key, data)) if data else None


def _data(store: Any) -> Any:
    if type(store).load is not CacheStore.load:
        return store.load()
    try:  # the store's own load() takes an error for a session that is gone
        return _raising(store._cache).get(store.cache_key)  # noqa: SLF001 - there is no other way
    except InvalidCacheKey:  # a cookie that no engine made
        return None


def _raising(cache: Any) -> Any:
    """Returns `cache`, or a copy that raises errors: the answer "no such key" would end sessions."""
    if hasattr(cache, "raising"):  # ours
        return cache.raising()
    if getattr(cache, "_ignore_exceptions", False):  # django-redis
        cache = copy(cache)
        cache._ignore_exceptions = False  # noqa: SLF001 - there is no other way
    return cache


def _seconds_left(store: SessionBase, key: str, data: dict[str, Any]) -> float:
    """Returns the seconds from the row if there is one. A cache does not tell, so there the whole age begins again."""
    model = getattr(store, "model", None)
    if model is not None:
        for expire_date in model.objects.filter(session_key=key).values_list("expire_date", flat=True):
            return _until(expire_date)
    default = store.get_session_cookie_age()
    return float(expiry.age(data.get("_session_expiry"), timezone.now(), default))


def _until(expire_date: datetime) -> float:
    return float(expiry.bounded((expire_date - timezone.now()).total_seconds()))


def _column_of(session: PreviousSession, codec: SessionCodec) -> tuple[str, int]:
    """Returns the data as stored here, and how many values are left out: caches accept what no serializer encodes."""
    entries, refused = codec.encode_what_can_be(session.data)
    for key in refused:
        message = f"The session value under {key!r} cannot be encoded here and was left out"
        emit("sessions.value_left_out", message, level=logging.WARNING, key=key)
    return codec.column(entries), len(refused)


@dataclass
class ImportCounts:
    moved: int = 0
    kept: int = 0
    left_out: int = 0


def import_sessions(codec: SessionCodec, batch: int = 1000) -> Iterator[ImportCounts]:
    """Moves all live sessions that are left. Yields the counts so far after every batch.

    A row that is here is never changed, so this may be killed and run again at any time. Values that cannot be encoded
    here are logged by their keys and left out.
    """
    counts = ImportCounts()
    sessions = _stored_sessions(batch) if hasattr(_store_of(), "get_model_class") else _cached_sessions()
    while taken := {hash_key(session.key): session for session in islice(sessions, batch)}:
        _insert(taken, codec, counts)
        yield counts


def _stored_sessions(batch: int) -> Iterator[PreviousSession]:
    """Yields the sessions in the table of the engines db and cached_db, in batches in the order of their keys."""
    store = _store_of()
    live, last = store.get_model_class().objects.filter(expire_date__gt=timezone.now()).order_by("pk"), ""
    while rows := list(live.filter(session_key__gt=last)[:batch]):
        for row in rows:
            if data := store.decode(row.session_data):
                yield PreviousSession(row.session_key, data, _until(row.expire_date))
        last = rows[-1].session_key


def _cached_sessions() -> Iterator[PreviousSession]:
    store = _store_of()
    if not isinstance(store, CacheStore):
        raise CannotListKeysError(type(store).__module__)
    cache = _raising(caches[django_settings.SESSION_CACHE_ALIAS])
    for key in cached_keys(cache, store.cache_key_prefix):
        if session := _read(key):
            yield session


def cached_keys(cache: Any, prefix: str) -> Iterator[str]:
    """Yields the session keys in `cache`, for the caches that can list their keys."""
    if hasattr(cache, "iter_keys"):  # pgonly_django's and django-redis'
        for name in cache.iter_keys(f"{prefix}*"):
            # django-redis gives a part of a KEY_PREFIX that has a colon.
            yield name.rpartition(prefix)[2] if prefix else name
        return
    start = cache.make_key(prefix)
    for name in _cache_names(cache, start):
        text = name.decode() if isinstance(name, bytes) else str(name)
        if text.startswith(start):
            yield text[len(start) :]


def _cache_names(cache: Any, start: str) -> Any:
    kind = {base.__name__ for base in type(cache).__mro__}
    if "DatabaseCache" in kind:
        database = connections[router.db_for_read(cache.cache_model_class)]
        table = database.ops.quote_name(cache._table)  # noqa: SLF001 - no other way to list
        with database.cursor() as cursor:
            cursor.execute(f"SELECT cache_key FROM {table} WHERE starts_with(cache_key, %s)", [start])
            return [name for (name,) in cursor.fetchall()]
    if "RedisCache" in kind and hasattr(cache, "_cache"):
        escaped = "".join(f"[{char}]" if char in "*?[" else char for char in start)
        client = cache._cache.get_client()  # noqa: SLF001 - no other way to list
        return client.scan_iter(match=f"{escaped}*", count=1000)
    if "LocMemCache" in kind:
        return list(cache._cache)  # noqa: SLF001 - no other way to list
    raise CannotListKeysError(type(cache).__name__)


INSERT_ALL = qualified("""
INSERT INTO pgonly_session (key_hash, data, user_id, created_at, expires_at)
SELECT key_hash, data::jsonb, user_id, statement_timestamp(),
       statement_timestamp() + seconds_left * interval '1 second'
FROM unnest(%s::bytea[], %s::text[], %s::text[], %s::bytea[], %s::float8[])
    AS old (key_hash, data, user_id, user_key, seconds_left)
WHERE NOT EXISTS (
    SELECT FROM pgonly_session AS revoked
    WHERE revoked.key_hash = old.user_key AND revoked.expires_at > statement_timestamp()
)
ON CONFLICT (key_hash) DO NOTHING
""")


def _insert(sessions: dict[bytes, PreviousSession], codec: SessionCodec, counts: ImportCounts) -> None:
    old = list(sessions.values())
    columns = [_column_of(session, codec) for session in old]
    users = [session.user_id for session in old]
    user_keys = [None if user is None else hash_user(user) for user in users]
    left = [session.seconds_left for session in old]
    with connections[router.db_for_write(Session)].cursor() as cursor:
        cursor.execute(INSERT_ALL, [list(sessions), [data for data, _ in columns], users, user_keys, left])
        moved = cursor.rowcount
    counts.moved += moved
    counts.kept += len(old) - moved
    counts.left_out += sum(left_out for _, left_out in columns)
