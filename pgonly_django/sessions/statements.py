"""Every statement of the store; each is one round trip on the primary key."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import router

from pgonly_django.conf import settings
from pgonly_django.database.libpq import Params, Statement
from pgonly_django.database.on_django import first_row
from pgonly_django.models import Session
from pgonly_django.models.session import hash_key, hash_user
from pgonly_django.sessions import connection
from pgonly_django.sessions.connection import first_row_again_if_cut, in_transaction


@dataclass(frozen=True, slots=True)
class Stored:
    column: dict[str, Any]
    # Since last_seen_at; None when the session was never written here.
    idle_seconds: float | None


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request came from. Nothing known changes nothing in the row."""

    ip: str | None = None
    user_agent: str | None = None


@dataclass(frozen=True, slots=True)
class Expiry:
    """How long a session lives from now, unless a parallel request has set another expiry meanwhile."""

    seconds: float
    is_set_here: bool
    # The row's member of set_expiry() as this request found it, as JSON.
    found: str | None


# Infinite times cannot be subtracted before PostgreSQL 17; their epochs can.
LOAD = Statement("""
SELECT data, date_part('epoch', statement_timestamp()) - date_part('epoch', last_seen_at)
FROM pgonly_session
WHERE key_hash = %(key)s AND expires_at > statement_timestamp() AND data IS NOT NULL
""")


def load(session_key: str, *, just_written: bool = False) -> Stored | None:
    """`just_written`: not from a replica, which may not have it yet."""
    alias = router.db_for_write(Session) if just_written else router.db_for_read(Session)
    row = first_row_again_if_cut(alias, LOAD, {"key": hash_key(session_key)})
    return None if row is None else Stored(json.loads(row[0]), None if row[1] is None else float(row[1]))


EXISTS = Statement("SELECT true FROM pgonly_session WHERE key_hash = %(key)s AND data IS NOT NULL")


def exists(session_key: str) -> bool:
    return first_row(router.db_for_read(Session), EXISTS, {"key": hash_key(session_key)}) is not None


INSERT = Statement("""
INSERT INTO pgonly_session
    (key_hash, data, user_id, created_at, last_seen_at, expires_at, ip, user_agent)
VALUES (
    %(key)s, %(data)s::jsonb, %(user)s::text, statement_timestamp(), statement_timestamp(),
    statement_timestamp() + %(age)s::float8 * interval '1 second', %(ip)s::inet, coalesce(%(agent)s::text, '')
)
ON CONFLICT (key_hash) DO NOTHING
RETURNING true
""")


def insert(session_key: str, data: str, user_id: str | None, age: float, client: Client) -> bool:
    """False when the key is taken, be it by an expired or an ended session."""
    return _write(
        INSERT, session_key, data=data, user=user_id, age=float(age), ip=client.ip, agent=client.user_agent
    )


# An imported row that was not used here yet is replaced by what the old engine has; one that the user's revocation
# keeps out is buried at once.
MOVE = Statement("""
INSERT INTO pgonly_session AS here
    (key_hash, data, user_id, created_at, last_seen_at, expires_at, ip, user_agent)
SELECT
    %(key)s::bytea,
    CASE WHEN NOT is_revoked THEN %(data)s::jsonb END,
    CASE WHEN NOT is_revoked THEN %(user)s::text END,
    statement_timestamp(), statement_timestamp(),
    statement_timestamp() + %(age)s::float8 * interval '1 second', %(ip)s::inet, coalesce(%(agent)s::text, '')
FROM (
    SELECT EXISTS (
        SELECT FROM pgonly_session
        WHERE key_hash = %(user_key)s::bytea AND expires_at > statement_timestamp()
    ) AS is_revoked
) AS of_user
ON CONFLICT (key_hash) DO UPDATE SET
    data = excluded.data,
    user_id = excluded.user_id,
    last_seen_at = excluded.last_seen_at,
    expires_at = excluded.expires_at,
    ip = excluded.ip,
    user_agent = excluded.user_agent
WHERE here.last_seen_at IS NULL AND here.data IS NOT NULL
RETURNING (data IS NOT NULL)::text
""")


def move(session_key: str, data: str, user_id: str | None, age: float, client: Client) -> bool | None:
    """False: all sessions of this user were revoked, so this one is over. None: the row here stays as it is."""
    bound: Params = {
        "key": hash_key(session_key), "data": data, "user": user_id, "age": float(age),
        "user_key": None if user_id is None else hash_user(user_id),
        "ip": client.ip, "agent": client.user_agent,
    }  # fmt: skip
    row = first_row(router.db_for_write(Session), MOVE, bound)
    return None if row is None else row[0] == "true"


END_COPY = Statement("""
UPDATE pgonly_session SET data = NULL, user_id = NULL
WHERE key_hash = %(key)s AND last_seen_at IS NULL AND data IS NOT NULL
RETURNING true
""")


def end_copy(session_key: str) -> bool:
    """False: no such session, or it was used here."""
    return _write(END_COPY, session_key)


# A row that was only imported is no session yet while the old engine has to be asked.
MERGE = Statement("""
UPDATE pgonly_session SET
    data = (data - %(removed)s::text[]) || %(changed)s::jsonb,
    user_id = CASE WHEN %(sets_user)s THEN %(user)s::text ELSE user_id END,
    last_seen_at = statement_timestamp(),
    expires_at = CASE
        WHEN %(sets_expiry)s OR data -> '_session_expiry' IS NOT DISTINCT FROM %(expiry)s::jsonb
        THEN statement_timestamp() + %(age)s::float8 * interval '1 second'
        ELSE expires_at
    END,
    ip = coalesce(%(ip)s::inet, ip),
    user_agent = coalesce(%(agent)s::text, user_agent)
WHERE key_hash = %(key)s AND data IS NOT NULL AND (last_seen_at IS NOT NULL OR %(takes_copy)s)
  AND set_config('synchronous_commit', coalesce(%(commit)s, current_setting('synchronous_commit')), true) > ''
RETURNING true
""")


def merge(
    session_key: str,
    changed: str,
    removed: list[str],
    user: tuple[bool, str | None],
    expiry: Expiry,
    client: Client,
) -> bool:
    """Keys that neither changed nor were removed stay as the row has them by now. False: no such session.

    `user` says whether the user changed, and to whom.
    """
    return _write(
        MERGE, session_key, changed=changed, removed=removed, sets_user=user[0], user=user[1],
        age=float(expiry.seconds), sets_expiry=expiry.is_set_here, expiry=expiry.found,
        ip=client.ip, agent=client.user_agent, takes_copy=not settings().session_fallback_engine,
        commit=None if user[0] or settings().session_wait_for_disk else _without_waiting(),
    )  # fmt: skip


REPLACE = Statement("""
UPDATE pgonly_session SET
    data = %(data)s::jsonb,
    user_id = %(user)s::text,
    last_seen_at = statement_timestamp(),
    expires_at = statement_timestamp() + %(age)s::float8 * interval '1 second',
    ip = coalesce(%(ip)s::inet, ip),
    user_agent = coalesce(%(agent)s::text, user_agent)
WHERE key_hash = %(key)s AND data IS NOT NULL
RETURNING true
""")


def replace(session_key: str, data: str, user_id: str | None, age: float, client: Client) -> bool:
    """For a session that was emptied before it was filled again. False: no such session."""
    return _write(
        REPLACE, session_key, data=data, user=user_id, age=float(age), ip=client.ip, agent=client.user_agent
    )


# Leaves `data` alone: an assignment would write a large value anew. Committed without waiting for the disk:
# a crash of the database server in the next 0.6 s loses no more than that the session was seen.
TOUCH = Statement("""
UPDATE pgonly_session SET
    last_seen_at = statement_timestamp(),
    expires_at = CASE
        WHEN %(age)s::float8 IS NULL THEN expires_at
        WHEN %(sets_expiry)s OR data -> '_session_expiry' IS NOT DISTINCT FROM %(expiry)s::jsonb
        THEN statement_timestamp() + %(age)s::float8 * interval '1 second'
        ELSE expires_at
    END,
    ip = coalesce(%(ip)s::inet, ip),
    user_agent = coalesce(%(agent)s::text, user_agent)
WHERE key_hash = %(key)s AND data IS NOT NULL
  AND set_config('synchronous_commit', coalesce(%(commit)s, current_setting('synchronous_commit')), true) > ''
RETURNING true
""")


def touch(session_key: str, expiry: Expiry | None, client: Client) -> bool:
    """Seen now; with an `expiry` it also lives that long from now. False: no such session."""
    return _write(
        TOUCH, session_key, age=expiry and float(expiry.seconds),
        sets_expiry=expiry is not None and expiry.is_set_here, expiry=expiry and expiry.found,
        ip=client.ip, agent=client.user_agent, commit=_without_waiting(),
    )  # fmt: skip


RENAME = Statement("""
UPDATE pgonly_session SET key_hash = %(new)s
WHERE key_hash = %(key)s AND data IS NOT NULL
RETURNING true
""")


def rename(session_key: str, new_key: str) -> bool:
    """False: no such session."""
    return _write(RENAME, session_key, new=hash_key(new_key))


DELETE = Statement("DELETE FROM pgonly_session WHERE key_hash = %(key)s RETURNING true")


def delete(session_key: str) -> bool:
    return _write(DELETE, session_key)


# What ends a session while another engine may bring it back: a row that says no.
BURY = Statement("""
INSERT INTO pgonly_session AS here (key_hash, created_at, expires_at)
VALUES (
    %(key)s, statement_timestamp(), statement_timestamp() + %(age)s::float8 * interval '1 second'
)
ON CONFLICT (key_hash) DO UPDATE SET
    data = NULL, user_id = NULL, expires_at = greatest(here.expires_at, excluded.expires_at)
RETURNING true
""")


def bury(session_key: str, age: float) -> None:
    _write(BURY, session_key, age=float(age))


def bury_user(user_id: str, age: float) -> None:
    """No session of theirs is moved here any more: another engine's sessions cannot be listed by user."""
    first_row(router.db_for_write(Session), BURY, {"key": hash_user(user_id), "age": float(age)})


def may_roll_back() -> bool:
    """Is what was just written still at the mercy of a transaction?"""
    return in_transaction(router.db_for_write(Session))


def after_commit(do: Callable[[], None]) -> bool:
    """See connection.after_commit()."""
    return connection.after_commit(router.db_for_write(Session), do)


def _without_waiting() -> str | None:
    """For the transaction of one statement only; a transaction of the caller's keeps its own setting."""
    return None if may_roll_back() else "off"


def _write(statement: Statement, session_key: str, **params: Any) -> bool:
    bound: Params = {"key": hash_key(session_key), **params}
    return first_row(router.db_for_write(Session), statement, bound) is not None
