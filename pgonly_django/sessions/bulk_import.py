"""Copies all live sessions of the previous engine here, under the same cookies: pgonly_import_sessions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from django.conf import settings as django_settings
from django.core.cache import caches
from django.db import connections, router
from django.utils import timezone

from pgonly_django.exceptions import CannotListKeysError
from pgonly_django.models import Session
from pgonly_django.models.session import hash_key, hash_user
from pgonly_django.sessions import expiry, previous_engine
from pgonly_django.sessions.previous_engine import PreviousSession
from pgonly_django.sessions.store import SessionStore
from pgonly_django.tables import qualified

CACHE_ENGINE = "django.contrib.sessions.backends.cache"


@dataclass
class Counts:
    copied: int = 0
    refreshed: int = 0
    kept: int = 0
    dropped: int = 0
    left_out: int = 0


def import_sessions(engine: str, batch: int = 1000) -> Iterator[Counts]:
    """Copy all live sessions of `engine`. Yields the counts so far after every batch.

    A row that was written here is never changed. One that was only imported is brought up to date, and dropped when
    `engine` has ended it since. So it may be killed and run again at any time, and beside another run. Values that
    cannot be encoded here are logged by their keys and left out.
    """
    counts, known = Counts(), set[bytes]()
    with connections[router.db_for_write(Session)].cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        began_at = cursor.fetchone()[0]
    sessions = _cached_sessions(engine) if engine == CACHE_ENGINE else _stored_sessions(engine, batch)
    while taken := list(islice(sessions, batch)):
        listed = {hash_key(session.key): session for session in taken}  # Redis may list a key twice
        _copy({key: session for key, session in listed.items() if key not in known}, counts)
        known.update(listed)
        yield counts
    counts.dropped = _drop_ended(known, began_at, batch)
    yield counts


def _stored_sessions(engine: str, batch: int) -> Iterator[PreviousSession]:
    """From the table of the engines db and cached_db, in batches in the order of their keys."""
    store = previous_engine.store_of(engine)
    model = store.get_model_class()
    last = ""
    while True:
        now = timezone.now()
        rows = list(model.objects.filter(session_key__gt=last, expire_date__gt=now).order_by("pk")[:batch])
        for row in rows:
            if data := store.decode(row.session_data):
                left = expiry.bounded((row.expire_date - now).total_seconds())
                yield PreviousSession(row.session_key, data, left)
        if len(rows) < batch:
            return
        last = rows[-1].session_key


def _cached_sessions(engine: str) -> Iterator[PreviousSession]:
    cache = previous_engine.raising(caches[django_settings.SESSION_CACHE_ALIAS])
    for key in cached_keys(cache, previous_engine.store_of(engine).cache_key_prefix):
        if session := previous_engine.read(engine, key):
            yield session


def cached_keys(cache: Any, prefix: str) -> Iterator[str]:
    """The session keys in `cache`, for the caches that can list their keys."""
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


# xmax is 0 in a row that this statement inserted. If nothing but the expiry differs, by up to a minute, it is left.
COPY = qualified("""
INSERT INTO pgonly_session AS here (key_hash, data, user_id, created_at, expires_at)
SELECT key_hash, data::jsonb, user_id, statement_timestamp(),
       statement_timestamp() + seconds_left * interval '1 second'
FROM unnest(%s::bytea[], %s::text[], %s::text[], %s::bytea[], %s::float8[])
    AS old (key_hash, data, user_id, user_key, seconds_left)
WHERE NOT EXISTS (
    SELECT FROM pgonly_session AS revoked
    WHERE revoked.key_hash = old.user_key AND revoked.expires_at > statement_timestamp()
)
ON CONFLICT (key_hash) DO UPDATE
    SET data = excluded.data, user_id = excluded.user_id, expires_at = excluded.expires_at
    WHERE here.last_seen_at IS NULL AND here.data IS NOT NULL AND (
        here.data <> excluded.data OR abs(extract(epoch FROM excluded.expires_at - here.expires_at)) > 60
    )
RETURNING xmax = 0
""")


def _copy(sessions: dict[bytes, PreviousSession], counts: Counts) -> None:
    codec, old = SessionStore().codec, list(sessions.values())
    columns = [previous_engine.column_of(session, codec) for session in old]
    users = [session.user_id for session in old]
    user_keys = [None if user is None else hash_user(user) for user in users]
    left = [session.seconds_left for session in old]
    with connections[router.db_for_write(Session)].cursor() as cursor:
        cursor.execute(COPY, [list(sessions), [data for data, _ in columns], users, user_keys, left])
        made = [row[0] for row in cursor.fetchall()]
    counts.copied += sum(made)
    counts.refreshed += len(made) - sum(made)
    counts.kept += len(old) - len(made)
    counts.left_out += sum(left_out for _, left_out in columns)


def _drop_ended(known: set[bytes], began_at: datetime, batch: int) -> int:
    """Delete sessions that were imported, were not used here, and are gone from the previous engine: ended there.

    Rows that came after `began_at` are another run's, which may know sessions that began after ours were listed.
    """
    dropped, last = 0, ""
    imported = Session.objects.filter(last_seen_at=None, data__isnull=False)
    while True:
        rows = imported.filter(created_at__lt=began_at, pk__gt=last).order_by("pk")
        keys = list(rows.values_list("pk", flat=True)[:batch])
        gone = [key for key in keys if bytes.fromhex(key) not in known]
        dropped += imported.filter(pk__in=gone).delete()[0]
        if len(keys) < batch:
            return dropped
        last = keys[-1]
