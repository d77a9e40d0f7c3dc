"""Live sessions of another engine, copied here under the same cookies."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.contrib.auth import SESSION_KEY as USER_KEY
from django.core.cache import caches
from django.db import connections, router
from django.utils import timezone

from pgonly_django.exceptions import CannotListKeysError
from pgonly_django.models import Session
from pgonly_django.models.session import hash_key
from pgonly_django.sessions.store import SessionStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.contrib.sessions.backends.base import SessionBase

CACHE_ENGINE = "django.contrib.sessions.backends.cache"


@dataclass(frozen=True, slots=True)
class OldSession:
    key: str
    data: dict[str, Any]
    seconds_left: float


@dataclass
class Result:
    copied: int = 0
    refreshed: int = 0
    kept: int = 0
    dropped: int = 0


def import_sessions(engine: str, batch: int = 1000) -> Iterator[Result]:
    """Copy all live sessions of `engine`, yielding the sums so far after every batch.

    A row that this engine has written is never changed. One that was only imported is brought up to date,
    and dropped when the old engine has ended it since. So it may be killed and run again at any time.
    """
    result, known = Result(), set[bytes]()
    sessions = _cached_sessions(engine) if engine == CACHE_ENGINE else _stored_sessions(engine, batch)
    while taken := list(islice(sessions, batch)):
        known.update(hash_key(session.key) for session in taken)
        _copy(taken, result)
        yield result
    result.dropped = _drop_ended(known, batch)
    yield result


def _stored_sessions(engine: str, batch: int) -> Iterator[OldSession]:
    """From the table of the engines db and cached_db, in the order of their keys, read in batches."""
    store = _store(engine)
    model = store.get_model_class()  # type: ignore[attr-defined] # of the engines with a table
    last = ""
    while True:
        now = timezone.now()
        rows = list(model.objects.filter(session_key__gt=last, expire_date__gt=now).order_by("pk")[:batch])
        for row in rows:
            if data := store.decode(row.session_data):
                yield OldSession(row.session_key, data, (row.expire_date - now).total_seconds())
        if len(rows) < batch:
            return
        last = rows[-1].session_key


def _cached_sessions(engine: str) -> Iterator[OldSession]:
    """A cache does not tell how long an entry has to live, so each begins its whole age anew."""
    store: Any = _store(engine)
    prefix: str = store.cache_key_prefix
    cache = _outspoken(caches[django_settings.SESSION_CACHE_ALIAS])
    for key in cached_keys(cache, prefix):
        if data := cache.get(prefix + key):  # the store's load() takes an error for a session that is gone
            age = store.get_expiry_age(expiry=data.get("_session_expiry"))
            yield OldSession(key, data, float(age))


def _outspoken(cache: Any) -> Any:
    """A copy that raises where `cache` would answer an error with nothing, which would end every session here."""
    cache = copy(cache)
    for name, value in (("_on_error", "raise"), ("_ignore_exceptions", False)):  # ours, django-redis'
        if hasattr(cache, name):
            setattr(cache, name, value)
    return cache


def cached_keys(cache: Any, prefix: str) -> Iterator[str]:
    """The session keys in `cache`, for the caches that can list their keys."""
    if hasattr(cache, "iter_keys"):  # pgonly_django's and django-redis'
        # A KEY_PREFIX with a colon comes back from django-redis in part.
        yield from (
            (name.rpartition(prefix)[2] if prefix else name) for name in cache.iter_keys(f"{prefix}*")
        )
        return
    start = cache.make_key(prefix)
    for name in _cache_names(cache, start):
        text = name.decode() if isinstance(name, bytes) else str(name)
        if text.startswith(start):
            yield text[len(start) :]


def _cache_names(cache: Any, start: str) -> Iterator[str | bytes]:
    kind = {base.__name__ for base in type(cache).__mro__}
    if "DatabaseCache" in kind:
        return _table_names(cache, start)
    if "RedisCache" in kind and hasattr(cache, "_cache"):
        escaped = "".join(f"[{char}]" if char in "*?[" else char for char in start)
        client = cache._cache.get_client()  # noqa: SLF001 - no other way to list
        names: Iterator[bytes] = client.scan_iter(match=f"{escaped}*", count=1000)
        return names
    if "LocMemCache" in kind:
        return iter(list(cache._cache))  # noqa: SLF001 - no other way to list
    raise CannotListKeysError(type(cache).__name__)


def _table_names(cache: Any, start: str) -> Iterator[str]:
    alias = router.db_for_read(cache.cache_model_class)
    with connections[alias].cursor() as cursor:
        name = connections[alias].ops.quote_name(cache._table)  # noqa: SLF001 - no other way to list
        cursor.execute(f"SELECT cache_key FROM {name} WHERE starts_with(cache_key, %s)", [start])
        return iter([row[0] for row in cursor.fetchall()])


# xmax is 0 in a row that this statement made.
COPY = """
INSERT INTO pgonly_session AS here (key_hash, data, user_id, created_at, expires_at)
SELECT key_hash, data::jsonb, user_id, statement_timestamp(),
       statement_timestamp() + seconds_left * interval '1 second'
FROM unnest(%s::bytea[], %s::text[], %s::text[], %s::float8[]) AS old (key_hash, data, user_id, seconds_left)
ON CONFLICT (key_hash) DO UPDATE
    SET data = excluded.data, user_id = excluded.user_id, expires_at = excluded.expires_at
    WHERE here.last_seen_at IS NULL AND here.data IS NOT NULL AND here.data <> excluded.data
RETURNING xmax = 0
"""


def _copy(sessions: list[OldSession], result: Result) -> None:
    codec = SessionStore().codec
    data = [codec.column(codec.entries(session.data)) for session in sessions]
    users = [session.data.get(USER_KEY) for session in sessions]
    keys = [hash_key(session.key) for session in sessions]
    left = [session.seconds_left for session in sessions]
    with connections[router.db_for_write(Session)].cursor() as cursor:
        cursor.execute(COPY, [keys, data, [None if user is None else str(user) for user in users], left])
        made = [row[0] for row in cursor.fetchall()]
    result.copied += sum(made)
    result.refreshed += len(made) - sum(made)
    result.kept += len(sessions) - len(made)


def _drop_ended(known: set[bytes], batch: int) -> int:
    """Imported, not used here yet, and gone from the old engine: its user has logged out there."""
    dropped, last = 0, ""
    unseen = Session.objects.filter(last_seen_at=None, data__isnull=False).order_by("pk")
    while True:
        rows = unseen.filter(pk__gt=last) if last else unseen
        keys = list(rows.values_list("pk", flat=True)[:batch])
        gone = [key for key in keys if bytes.fromhex(key) not in known]
        dropped += Session.objects.filter(pk__in=gone, last_seen_at=None, data__isnull=False).delete()[0]
        if len(keys) < batch:
            return dropped
        last = keys[-1]


def _store(engine: str, key: str | None = None) -> SessionBase:
    store: SessionBase = import_module(engine).SessionStore(key)
    return store
