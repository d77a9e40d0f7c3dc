"""Moves all our tables to the schema of PGONLY["SCHEMA"], or back: one transaction, all or none.

The rows stay where they are on the disk, so it takes milliseconds, however many there are. Indexes and sequences move
with their tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from django.core.management.base import CommandError
from django.db import OperationalError, ProgrammingError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import errors

from pgonly_django.conf import schema, settings
from pgonly_django.database.placement import Placement, create_schema, described, find, listed

ADVISORY_LOCK = 0x70676F6E_02  # "pgon", duty 2: one move at a time


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move did: nothing where `tables` is empty."""

    source: str
    target: str
    tables: tuple[str, ...] = ()
    has_created_schema: bool = False
    granted_to: tuple[str, ...] = ()


def move(
    connection: BaseDatabaseWrapper, source: str | None, lock_seconds: float, *, while_running: bool = False
) -> Moved:
    """Move all tables from `source`, or from the one schema that has them. Does nothing where they are at their place.

    Raises CommandError, and has changed nothing, when workers are alive (unless `while_running`), when tables stand in
    several schemas, when a table cannot be locked within `lock_seconds`, and when the role lacks a privilege.
    """
    try:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{lock_seconds * 1000:.0f}ms"])
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ADVISORY_LOCK])
            return _move(connection, cursor, source, while_running=while_running)
    except (OperationalError, ProgrammingError) as error:
        _explain(error, lock_seconds)


def _explain(error: Exception, lock_seconds: float) -> NoReturn:
    cause = error.__cause__
    if isinstance(cause, errors.LockNotAvailable | errors.DeadlockDetected):
        raise CommandError(
            f"Nothing was moved: another transaction held a table for more than {lock_seconds:g} s. Run it again, give "
            "--lock-timeout more seconds, or look for the transaction in pg_stat_activity."
        ) from error
    if isinstance(cause, errors.InsufficientPrivilege):
        text = str(error).strip()
        raise CommandError(f"Nothing was moved: {text}. Run it as the role that owns the tables.") from error
    raise error


def _move(connection: BaseDatabaseWrapper, cursor: Any, wanted: str | None, *, while_running: bool) -> Moved:
    placement, target = find(connection), _target(cursor)
    source = _source(placement, wanted)
    if source is None:
        return Moved("", target)
    names = placement.elsewhere[source]
    _refuse_two_halves(cursor, placement, source, target)
    if not while_running:
        _refuse_live_workers(cursor, source, names)
    has_created = bool(schema()) and create_schema(connection)
    cursor.execute(f"LOCK TABLE {', '.join(_quoted(source, name) for name in names)}")
    for name in names:
        cursor.execute(f'ALTER TABLE {_quoted(source, name)} SET SCHEMA "{target}"')
    return Moved(source, target, tuple(names), has_created, _grant_usage(cursor, target, names))


def _quoted(place: str, name: str) -> str:
    return '"{}"."{}"'.format(place.replace('"', '""'), name)


def _target(cursor: Any) -> str:
    if schema():
        return schema()
    cursor.execute("SELECT current_schema()::text")
    (found,) = cursor.fetchone()
    if found is None:
        raise CommandError(
            "The search_path of this role leads to no schema, so that the tables have no place."
        )
    return cast("str", found)


def _source(placement: Placement, wanted: str | None) -> str | None:
    """The schema to move from; None where nothing is to be moved."""
    misplaced = placement.misplaced
    if wanted is not None:
        if wanted in placement.elsewhere:
            return wanted
        if not misplaced:
            return None
        raise CommandError(f'--from "{wanted}" has none of the tables. They are {described(misplaced)}.')
    if len(misplaced) > 1:
        raise CommandError(f"Tables are {described(misplaced)}. Say which to move: --from {min(misplaced)}")
    return next(iter(misplaced), None)


def _refuse_two_halves(cursor: Any, placement: Placement, source: str, target: str) -> None:
    """One move takes all tables, so what stands on both sides was put there by a person, or by `migrate` under another
    setting. Only a person can tell which of two tables holds the jobs."""
    both = [name for name in placement.elsewhere[source] if name in placement.at_place]
    if both:
        lines = [
            f"  {name}: {_content(cursor, source, name)}; {_content(cursor, target, name)}" for name in both
        ]
        raise CommandError(
            f'Nothing was moved: schema "{target}" has tables of the same names as schema "{source}".\n'
            + "\n".join(lines)
            + '\nDrop those without rows that you need (DROP TABLE "schema".name CASCADE;) and run it again.'
        )
    if placement.at_place:
        rest = [
            f'ALTER TABLE {_quoted(source, name)} SET SCHEMA "{target}";'
            for name in placement.elsewhere[source]
        ]
        raise CommandError(
            f'Nothing was moved: {listed(placement.at_place)} are in schema "{target}" already, the others are in '
            f'"{source}". This command moves all or none, so look how it came to this. No table is there twice; '
            "when they belong together, this moves the rest:\n  BEGIN;\n  "
            + "\n  ".join(rest)
            + "\n  COMMIT;"
        )


def _content(cursor: Any, place: str, name: str) -> str:
    cursor.execute(f"SELECT EXISTS (SELECT FROM {_quoted(place, name)})")
    (has_rows,) = cursor.fetchone()
    return f'in "{place}" {"with rows" if has_rows else "empty"}'


def _refuse_live_workers(cursor: Any, source: str, names: Sequence[str]) -> None:
    """They have statements with the old place. They could renew no lease and write no end, and their jobs would run
    twice."""
    if "pgonly_worker" not in names:
        return
    cursor.execute(
        f"SELECT name FROM {_quoted(source, 'pgonly_worker')} WHERE stopped_at IS NULL"
        " AND heartbeat_at > clock_timestamp() - make_interval(secs => %s)"
        " ORDER BY name",
        [settings().lease_seconds],
    )
    if alive := [name for (name,) in cursor.fetchall()]:
        raise CommandError(
            f"Nothing was moved: workers are running ({listed(alive)}). They would lose their jobs, which then run "
            "twice. Stop them (SIGTERM) first. With --while-running it does not ask; see docs/how-to/schema.md."
        )


# Roles that may use a table of ours, but not the schema yet.
LACKING = """
SELECT DISTINCT quote_ident(role.rolname) FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS privilege
JOIN pg_roles AS role ON role.oid = privilege.grantee
WHERE c.relname = ANY (%(names)s) AND c.relnamespace = to_regnamespace(quote_ident(%(target)s))
    AND NOT has_schema_privilege(role.oid, %(target)s, 'USAGE') ORDER BY 1
"""


def _grant_usage(cursor: Any, target: str, names: Sequence[str]) -> tuple[str, ...]:
    cursor.execute(LACKING, {"names": list(names), "target": target})
    roles = tuple(role for (role,) in cursor.fetchall())
    if roles:
        cursor.execute(f'GRANT USAGE ON SCHEMA "{target}" TO {", ".join(roles)}')
    return roles
