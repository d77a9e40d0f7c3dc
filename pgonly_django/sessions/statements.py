"""Every statement of the store; each is one round trip on the primary key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.db import router

from pgonly_django.conf import settings
from pgonly_django.django_connection import first_row
from pgonly_django.models import Session
from pgonly_django.models.session import hash_key
from pgonly_django.sessions.connection import first_row_again_if_cut, in_transaction
from pgonly_django.statement import Params, Statement


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


LOAD = Statement("""
SELECT data, extract(epoch FROM statement_timestamp() - last_seen_at)::float8
FROM pgonly_session
WHERE key_hash = %(key)s AND expires_at > statement_timestamp() AND data IS NOT NULL
""")


def load(session_key: str) -> Stored | None:
    row = first_row_again_if_cut(router.db_for_read(Session), LOAD, {"key": hash_key(session_key)})
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


MERGE = Statement("""
UPDATE pgonly_session SET
    data = (data - %(removed)s::text[]) || %(changed)s::jsonb,
    user_id = CASE WHEN %(sets_user)s THEN %(user)s::text ELSE user_id END,
    last_seen_at = statement_timestamp(),
    expires_at = statement_timestamp() + %(age)s::float8 * interval '1 second',
    ip = coalesce(%(ip)s::inet, ip),
    user_agent = coalesce(%(agent)s::text, user_agent)
WHERE key_hash = %(key)s AND data IS NOT NULL
  AND set_config('synchronous_commit', coalesce(%(commit)s, current_setting('synchronous_commit')), true) > ''
RETURNING true
""")


def merge(
    session_key: str,
    changed: str,
    removed: list[str],
    user: tuple[bool, str | None],
    age: float,
    client: Client,
) -> bool:
    """Keys that neither changed nor were removed stay as the row has them by now. False: no such session.

    `user` says whether the user changed, and to whom.
    """
    return _write(
        MERGE, session_key, changed=changed, removed=removed, sets_user=user[0], user=user[1],
        age=float(age), ip=client.ip, agent=client.user_agent,
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
    expires_at = coalesce(statement_timestamp() + %(age)s::float8 * interval '1 second', expires_at),
    ip = coalesce(%(ip)s::inet, ip),
    user_agent = coalesce(%(agent)s::text, user_agent)
WHERE key_hash = %(key)s AND data IS NOT NULL
  AND set_config('synchronous_commit', coalesce(%(commit)s, current_setting('synchronous_commit')), true) > ''
RETURNING true
""")


def touch(session_key: str, age: float | None, client: Client) -> bool:
    """Seen now; with an `age` it also lives that long from now. False: no such session."""
    seconds = None if age is None else float(age)
    return _write(
        TOUCH, session_key, age=seconds, ip=client.ip, agent=client.user_agent, commit=_without_waiting()
    )


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
INSERT INTO pgonly_session (key_hash, created_at, expires_at)
VALUES (
    %(key)s, statement_timestamp(), statement_timestamp() + %(age)s::float8 * interval '1 second'
)
ON CONFLICT (key_hash) DO UPDATE SET data = NULL, user_id = NULL
RETURNING true
""")


def bury(session_key: str, age: float) -> None:
    _write(BURY, session_key, age=float(age))


def may_roll_back() -> bool:
    """Is what was just written still at the mercy of a transaction?"""
    return in_transaction(router.db_for_write(Session))


def _without_waiting() -> str | None:
    """For the transaction of one statement only; a transaction of the caller's keeps its own setting."""
    return None if may_roll_back() else "off"


def _write(statement: Statement, session_key: str, **params: Any) -> bool:
    bound: Params = {"key": hash_key(session_key), **params}
    return first_row(router.db_for_write(Session), statement, bound) is not None
