"""The server: whether it is PostgreSQL, in a version that was tested, and settings of it that break a promise."""

from __future__ import annotations

from collections.abc import Iterator

from django.db import NotSupportedError

from pgonly_django import compat
from pgonly_django.database import server_kind
from pgonly_django.database.server_kind import HINT, NEWER, NEWER_HINT, REFUSED, ServerKind, kind_of
from pgonly_django.monitoring.doctor.reading import reading, rows
from pgonly_django.monitoring.findings import Condition, Finding, Level

COCKROACH = Condition("D010", Level.ERROR, REFUSED, HINT)
NEWER_THAN_TESTED = Condition("D017", Level.INFO, NEWER, NEWER_HINT)


def server_of(alias: str) -> ServerKind:
    """Returns the server. Raises django.db.Error."""
    try:
        with reading(alias) as cursor:
            return kind_of(cursor)
    except NotSupportedError:
        if server_kind.is_cockroach(alias):  # which Django refuses as an old PostgreSQL
            return ServerKind(server_kind.COCKROACH)
        raise


def kind(alias: str) -> Iterator[Finding]:
    """D010: CockroachDB. D017: a newer version than tested."""
    found = server_of(alias)
    if found.is_cockroach:
        yield COCKROACH.finding(alias=alias, version=found.version)
    for facts in (*server_kind.newer_than_tested(found.version), *compat.newer_than_tested()):
        yield NEWER_THAN_TESTED.finding(**facts)


# fmt: off
CHANGE = "ALTER ROLE {_role:sql}{_where} SET {name} = {_wanted}; and connect again, or take it out of OPTIONS."
PROMISES = {
    "synchronous_commit": Condition(
        "D135", Level.WARNING, "{name} is {value} for the role {_role} (by {source}): a crash of the server loses jobs "
        "whose enqueue was acknowledged within the last second.", CHANGE),
    "default_transaction_isolation": Condition(
        "D136", Level.WARNING, "{name} is {value} for the role {_role} (by {source}): writes of jobs and unique "
        "enqueues that meet another one fail with a serialization error.", CHANGE),
}
# fmt: on
# As Django's connection has them: those that workers and caches open set both. OPTIONS["isolation_level"] changes
# transaction_isolation alone.
SETTINGS = """
SELECT name, value, current_user::text AS _role, _wanted,
    CASE source WHEN 'database user' THEN format(' IN DATABASE "%s"', current_database()) ELSE '' END AS _where,
    CASE WHEN value <> setting THEN 'OPTIONS' WHEN source = 'user' THEN 'ALTER ROLE'
    WHEN source = 'database' THEN 'ALTER DATABASE' ELSE source END AS source
FROM pg_settings JOIN (VALUES ('synchronous_commit', current_setting('synchronous_commit'), 'on'),
    ('default_transaction_isolation', current_setting('transaction_isolation'), '''read committed'''))
    AS found (name, value, _wanted) USING (name)
WHERE value IN ('off', 'repeatable read', 'serializable')
"""


def settings(alias: str) -> Iterator[Finding]:
    """D135 and D136, as this role has the settings in this database."""
    return (PROMISES[facts["name"]].finding(**facts) for facts in rows(alias, SETTINGS))
