"""Brings stored sessions to what PGONLY["SESSION_ENCRYPT_DATA"] says, while requests continue to change them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connections, router

from pgonly_django.conf import settings
from pgonly_django.models import Session
from pgonly_django.models.session import SessionQuerySet
from pgonly_django.sessions import SessionStore
from pgonly_django.sessions.codec import SessionCodec
from pgonly_django.tables import qualified

# A session that changes this often between our read and our write is in use, and its requests encrypt it.
TRIES = 10
# Servers that still run with the other setting may write as fast as this reads: without a limit it might never end.
PASSES = 10


class Command(BaseCommand):
    help = (
        'Rewrite stored sessions as PGONLY["SESSION_ENCRYPT_DATA"] says: encrypted under SECRET_KEY, or readable '
        "when it is off. Run it after you change the setting, and before you remove a key from SECRET_KEY_FALLBACKS."
    )

    def handle(self, *_args: Any, verbosity: int, **_options: Any) -> None:
        done = "encrypted" if settings().session_encrypt_data else "decrypted"
        count = 0
        for count in reencrypt_sessions():
            if verbosity > 1:
                self.stdout.write(f"{count} sessions {done}")
        self.stdout.write(self.style.SUCCESS(f"{count} sessions {done}"))


def reencrypt_sessions(batch: int = 500) -> Iterator[int]:
    """Encrypts every value under SECRET_KEY, or decrypts it, as PGONLY["SESSION_ENCRYPT_DATA"] says.

    Yields after every batch how many sessions were rewritten so far. It may be killed and run again at any time. A
    value that cannot be read is logged and left as it is.
    """
    codec, total = SessionStore().codec, 0
    # A login changes a session's key, perhaps to one that this pass had already gone past: so another pass.
    for _ in range(PASSES):
        before, rows = total, [("", None)]
        while rows:
            later = _sessions().filter(pk__gt=rows[-1][0]).order_by("pk")
            rows = list(later.values_list("pk", "data")[:batch])
            total += sum(_reencrypt(codec, key, column) for key, column in rows)
            yield total
        if total == before:
            return


def _sessions() -> SessionQuerySet:
    return Session.objects.using(router.db_for_write(Session)).filter(data__isnull=False)


# Changes nothing where a request has changed one of these values since it was read. Index: the primary key.
REPLACE = qualified(
    "UPDATE pgonly_session SET data = data || %s::jsonb WHERE key_hash = %s AND data @> %s::jsonb"
)


def _reencrypt(codec: SessionCodec, key: str, column: Any) -> bool:
    for _ in range(TRIES):
        old, new = codec.reencrypted(column)
        if not old:
            return False
        with connections[router.db_for_write(Session)].cursor() as cursor:
            cursor.execute(REPLACE, [new, bytes.fromhex(key), json.dumps(old)])
            if cursor.rowcount:
                return True
        column = _sessions().filter(pk=key).values_list("data", flat=True).first()
    return False
