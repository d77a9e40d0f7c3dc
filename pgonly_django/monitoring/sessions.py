"""How many sessions are active, and which users have most of them."""

from __future__ import annotations

from typing import NamedTuple

from django.db import connections

from pgonly_django.monitoring.counted import Counted, capped
from pgonly_django.tables import qualified

COUNTED_AT_MOST = 5_000
USERS_AT_MOST = 10

# Index: pgonly_session_expires, its 5,001 entries that expire last. Their rows are read, to leave out ended sessions.
ACTIVE = qualified(f"""
WITH newest AS MATERIALIZED (
    SELECT user_id, key_hash, expires_at FROM pgonly_session
    WHERE expires_hour >= floor(extract(epoch FROM statement_timestamp()) / 3600)::integer
        AND expires_at > statement_timestamp() AND data IS NOT NULL
    ORDER BY expires_hour DESC LIMIT {COUNTED_AT_MOST + 1}
)
SELECT NULL, count(*), count(user_id), NULL FROM newest
UNION ALL
(SELECT user_id, count(*), NULL, (array_agg(encode(key_hash, 'hex') ORDER BY expires_at DESC))[1]
 FROM newest WHERE user_id IS NOT NULL
 GROUP BY user_id ORDER BY 2 DESC, 1 LIMIT {USERS_AT_MOST})
""")


class OfUser(NamedTuple):
    user_id: str  # the text of the primary key
    active: int
    key_hash: str  # of the session that expires last


class SessionFigures(NamedTuple):
    active: Counted
    logged_in: Counted  # of them, the ones of a user
    by_user: list[OfUser]  # most sessions first


def sessions(alias: str) -> SessionFigures:
    """Of the COUNTED_AT_MOST active sessions that expire last."""
    with connections[alias].cursor() as cursor:
        cursor.execute(ACTIVE)
        (_, active, logged_in, _), *users = cursor.fetchall()
    has_more = active > COUNTED_AT_MOST
    return SessionFigures(
        active=capped(active, COUNTED_AT_MOST),
        logged_in=Counted(min(logged_in, COUNTED_AT_MOST), has_more),
        by_user=[OfUser(user_id, count, key_hash) for user_id, count, _, key_hash in users],
    )
