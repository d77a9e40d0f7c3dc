"""Stored sessions brought to what the settings say of encryption, beside requests that go on changing them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.db import connections, router

from pgonly_django.models import Session
from pgonly_django.sessions.store import SessionStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgonly_django.sessions.codec import Codec

# A session that changes as often between a read and a write is in use, and saves by itself.
TRIES = 10
# Servers that still run with the other setting write as fast as this reads: it must come to an end.
PASSES = 10


def rewrite_sessions(batch: int = 500) -> Iterator[int]:
    """Encrypt every value under SECRET_KEY, or decrypt it, as PGONLY["SESSION_ENCRYPT_DATA"] says.

    Yields after every batch how many sessions were rewritten so far. May be killed and run again at any time.
    A value that cannot be read is logged and left as it is.
    """
    rewritten = 0
    for _ in range(PASSES):
        before = rewritten
        for count in _pass(batch):
            rewritten += count
            yield rewritten
        # A login gives a session another key: perhaps one that had been passed already.
        if rewritten == before:
            return


def _pass(batch: int) -> Iterator[int]:
    """Once over the table in the order of its keys, yielding after every batch how many were rewritten in it."""
    codec, last = SessionStore().codec, ""
    sessions = Session.objects.using(router.db_for_write(Session)).filter(data__isnull=False).order_by("pk")
    while True:
        rows = list((sessions.filter(pk__gt=last) if last else sessions).values_list("pk", "data")[:batch])
        yield sum(_rewrite(codec, key, column) for key, column in rows)
        if len(rows) < batch:
            return
        last = rows[-1][0]


def _rewrite(codec: Codec, key: str, column: Any) -> bool:
    for _ in range(TRIES):
        old, new = codec.rewritten(column)
        if not old:
            return False
        if _replace(key, json.dumps(old), new):
            return True
        column = (
            Session.objects.using(router.db_for_write(Session))
            .filter(pk=key)
            .values_list("data", flat=True)
            .first()
        )
        if column is None:
            return False
    return False


# Nothing happens where a request has changed one of these values since it was read. Index: the primary key.
REPLACE = "UPDATE pgonly_session SET data = data || %s::jsonb WHERE key_hash = %s AND data @> %s::jsonb"


def _replace(key: str, old: str, new: str) -> bool:
    with connections[router.db_for_write(Session)].cursor() as cursor:
        cursor.execute(REPLACE, [new, bytes.fromhex(key), old])
        return bool(cursor.rowcount)
