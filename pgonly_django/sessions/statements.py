"""The statements of the session store. Each is one round trip that finds its row by the primary key.

They run on the request's own connection: a login inside an atomic view rolls back with the view.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from django.db import InterfaceError, OperationalError, connections, router, transaction
from django.db.backends.postgresql.base import DatabaseWrapper

from pgonly_django.conf import settings
from pgonly_django.database.on_django import first_row
from pgonly_django.database.statement import Params, Statement
from pgonly_django.models import Session
from pgonly_django.models.session import hash_key, hash_user
from pgonly_django.sessions.codec import from_json
from pgonly_django.tables import qualified


class StoredSession(NamedTuple):
    column: dict[str, Any]
    idle_seconds: float | None  # since last_seen_at; None: imported, and not written here yet


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request came from. None leaves the row's column unchanged."""

    ip: str | None = None
    user_agent: str | None = None


class Expiry(NamedTuple):
    """The session lives `age` seconds from now, unless a parallel request has set another expiry in between."""

    age: float | None = None  # None: it stays as it is
    sets_expiry: bool = False  # by this request
    expiry: str | None = None  # the row's member of set_expiry() when this request loaded it, as JSON


# What several statements share.
AGE_FROM_NOW = "statement_timestamp() + %(age)s::float8 * interval '1 second'"
KEEP_PARALLEL_EXPIRY = f"""expires_at = CASE
        WHEN %(age)s::float8 IS NULL THEN expires_at
        WHEN %(sets_expiry)s OR data -> '_session_expiry' IS NOT DISTINCT FROM %(expiry)s::jsonb THEN {AGE_FROM_NOW}
        ELSE expires_at
    END"""
NOTE_CLIENT = "ip = coalesce(%(ip)s::inet, ip), user_agent = coalesce(%(agent)s::text, user_agent)"
# For the transaction of this one statement; in a transaction of the caller's %(commit)s is NULL.
SET_COMMIT = """
    set_config('synchronous_commit', coalesce(%(commit)s, current_setting('synchronous_commit')), true) > ''"""


# Infinite times cannot be subtracted before PostgreSQL 17; their epochs can.
LOAD = Statement(
    qualified("""
SELECT data, date_part('epoch', statement_timestamp()) - date_part('epoch', last_seen_at)
FROM pgonly_session
WHERE key_hash = %(key)s::bytea AND expires_at > statement_timestamp() AND data IS NOT NULL
""")
)


def load(session_key: str, *, just_written: bool = False) -> StoredSession | None:
    """Loads the session. `just_written`: not from a replica, which may not have the session yet."""
    alias = router.db_for_write(Session) if just_written else router.db_for_read(Session)
    params: Params = {"key": hash_key(session_key)}
    try:
        row = first_row(alias, LOAD, params)
    except (OperationalError, InterfaceError):
        if not _closed_dead_connection(alias):
            raise
        row = first_row(alias, LOAD, params)
    if row is None:
        return None
    column, idle_seconds = row
    return StoredSession(from_json(column), None if idle_seconds is None else float(idle_seconds))


def _closed_dead_connection(alias: str) -> bool:
    """Returns True when the next statement gets a new connection. Returns False in a transaction, which is lost, and
    for a server that cannot be reached: a second timeout would keep the request waiting twice as long."""
    connection = cast("DatabaseWrapper", connections[alias])
    if connection.connection is None or _is_in_transaction(alias) or connection.is_usable():
        return False
    connection.close()
    if connection.pool:
        connection.pool.check()  # a restart of the server ended all connections in it
    return True


EXISTS = Statement(qualified("SELECT true FROM pgonly_session WHERE key_hash = %(key)s AND data IS NOT NULL"))


def exists(session_key: str) -> bool:
    return first_row(router.db_for_read(Session), EXISTS, {"key": hash_key(session_key)}) is not None


INSERT = Statement(
    qualified(f"""
INSERT INTO pgonly_session (key_hash, data, user_id, created_at, last_seen_at, expires_at, ip, user_agent)
VALUES (
    %(key)s, %(data)s::jsonb, %(user)s::text, statement_timestamp(), statement_timestamp(), {AGE_FROM_NOW},
    %(ip)s::inet, coalesce(%(agent)s::text, '')
)
ON CONFLICT (key_hash) DO NOTHING
RETURNING true
""")
)


def insert(session_key: str, data: str, user_id: str | None, age: float, client: Client) -> bool:
    """Inserts the session. Returns False when its key is taken, also by an expired or ended session."""
    return _write(INSERT, session_key, client, data=data, user=user_id, age=float(age))


# A session of a user whose sessions were all revoked becomes an ended row at once.
MOVE = Statement(
    qualified(f"""
INSERT INTO pgonly_session (key_hash, data, user_id, created_at, last_seen_at, expires_at, ip, user_agent)
SELECT
    %(key)s::bytea,
    CASE WHEN NOT is_revoked THEN %(data)s::jsonb END,
    CASE WHEN NOT is_revoked THEN %(user)s::text END,
    statement_timestamp(), statement_timestamp(), {AGE_FROM_NOW}, %(ip)s::inet, coalesce(%(agent)s::text, '')
FROM (
    SELECT EXISTS (
        SELECT FROM pgonly_session
        WHERE key_hash = %(user_key)s::bytea AND expires_at > statement_timestamp()
    ) AS is_revoked
) AS of_user
ON CONFLICT (key_hash) DO NOTHING
RETURNING (data IS NOT NULL)::text
""")
)


def move(session_key: str, data: str, user_id: str | None, age: float, client: Client) -> bool | None:
    """Returns False when the user's sessions were revoked, so this one is ended; None when the row here stays."""
    bound: Params = {
        "key": hash_key(session_key), "data": data, "user": user_id, "age": float(age),
        "user_key": None if user_id is None else hash_user(user_id),
        "ip": client.ip, "agent": client.user_agent,
    }  # fmt: skip
    row = first_row(router.db_for_write(Session), MOVE, bound)
    return None if row is None else row[0] == "true"


MERGE = Statement(
    qualified(f"""
UPDATE pgonly_session SET
    data = (data - %(removed)s::text[]) || %(changed)s::jsonb,
    user_id = CASE WHEN %(sets_user)s THEN %(user)s::text ELSE user_id END,
    last_seen_at = statement_timestamp(),
    {KEEP_PARALLEL_EXPIRY},
    {NOTE_CLIENT}
WHERE key_hash = %(key)s AND data IS NOT NULL AND {SET_COMMIT}
RETURNING true
""")
)


def merge(
    session_key: str,
    changed: str,
    removed: list[str],
    user: tuple[bool, str | None],
    expiry: Expiry,
    client: Client,
) -> bool:
    """Writes the changed keys. Keys that neither changed nor were removed stay as the row has them by now. Returns
    False when there is no such session. `user`: whether the user changed, and the new one.
    """
    sets_user, new_user = user
    commit = None if sets_user or settings().session_wait_for_disk else _no_wait_for_disk()
    return _write(
        MERGE, session_key, client, changed=changed, removed=removed, sets_user=sets_user, user=new_user,
        age=expiry.age, sets_expiry=expiry.sets_expiry, expiry=expiry.expiry, commit=commit,
    )  # fmt: skip


REPLACE = Statement(
    qualified(f"""
UPDATE pgonly_session SET
    data = %(data)s::jsonb,
    user_id = %(user)s::text,
    last_seen_at = statement_timestamp(),
    expires_at = {AGE_FROM_NOW},
    {NOTE_CLIENT}
WHERE key_hash = %(key)s AND data IS NOT NULL
RETURNING true
""")
)


def replace(session_key: str, data: str, user_id: str | None, age: float, client: Client) -> bool:
    """Replaces the data of a session that was emptied and filled again. Returns False without the session."""
    return _write(REPLACE, session_key, client, data=data, user=user_id, age=float(age))


# It does not assign `data`: that would write a large value again. It does not wait for the disk: a crash of the
# database server in the next 0.6 s loses no more than the time at which the session was seen.
TOUCH = Statement(
    qualified(f"""
UPDATE pgonly_session SET
    last_seen_at = statement_timestamp(),
    {KEEP_PARALLEL_EXPIRY},
    {NOTE_CLIENT}
WHERE key_hash = %(key)s AND data IS NOT NULL AND {SET_COMMIT}
RETURNING true
""")
)


def touch(session_key: str, expiry: Expiry, client: Client) -> bool:
    """Notes that the session was used now. Returns False when there is no such session."""
    return _write(TOUCH, session_key, client, commit=_no_wait_for_disk(), **expiry._asdict())


CHANGE_KEY = Statement(
    qualified("""
UPDATE pgonly_session SET key_hash = %(new)s
WHERE key_hash = %(key)s AND data IS NOT NULL
RETURNING true
""")
)


def change_key(session_key: str, new_key: str) -> bool:
    """Returns False when there is no such session."""
    return _write(CHANGE_KEY, session_key, new=hash_key(new_key))


DELETE = Statement(qualified("DELETE FROM pgonly_session WHERE key_hash = %(key)s RETURNING true"))


def delete(session_key: str) -> bool:
    return _write(DELETE, session_key)


# A row without data says that the session ended, so that the previous engine does not bring it back.
KEEP_ENDED = Statement(
    qualified(f"""
INSERT INTO pgonly_session AS here (key_hash, created_at, expires_at)
VALUES (%(key)s, statement_timestamp(), {AGE_FROM_NOW})
ON CONFLICT (key_hash) DO UPDATE SET
    data = NULL, user_id = NULL, expires_at = greatest(here.expires_at, excluded.expires_at)
RETURNING true
""")
)


def keep_ended(key_hash: bytes, age: float) -> None:
    """Makes sure that from now on the session with this hash of its key is not moved here, nor any of the user with
    this hash: sessions of another engine cannot be listed by user."""
    first_row(router.db_for_write(Session), KEEP_ENDED, {"key": key_hash, "age": float(age)})


def _write(statement: Statement, session_key: str, client: Client | None = None, **params: Any) -> bool:
    bound: Params = {"key": hash_key(session_key), **params}
    if client is not None:
        bound["ip"], bound["agent"] = client.ip, client.user_agent
    return first_row(router.db_for_write(Session), statement, bound) is not None


def _no_wait_for_disk() -> str | None:
    """Returns the setting for `commit`: off, but a transaction of the caller's keeps its own setting."""
    return None if _is_in_transaction(router.db_for_write(Session)) else "off"


def after_commit(do: Callable[[], None]) -> bool:
    """Calls `do` once what was just written is certain: at once where no rollback can undo it.

    Returns False without calling `do` where Django does not run code at the commit: with AUTOCOMMIT off, outside
    atomic().
    """
    alias = router.db_for_write(Session)
    if not _is_in_transaction(alias):
        do()
    elif connections[alias].in_atomic_block:
        transaction.on_commit(do, using=alias)
    else:
        return False
    return True


def _is_in_transaction(alias: str) -> bool:
    """Returns whether a rollback may still undo what was written. A TestCase's own transaction does not count."""
    connection = connections[alias]
    if connection.in_atomic_block:
        return not all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    return connection.connection is not None and not connection.get_autocommit()
