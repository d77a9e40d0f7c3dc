"""Makes the rows of limiters and budgets follow what code and settings declare, as Declared.declare() does, which says
whose declaration counts, but on a connection of this package. In the caller's transaction the row would be rolled back,
or stay locked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pgonly_django.database.operation import Operation
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import Statement
from pgonly_django.limits.pool_user import call
from pgonly_django.models.declared import IS_CONFIRMED, MAY_REPLACE, STALE_AFTER, STARTED_AT
from pgonly_django.tables import qualified

AGAIN_SECONDS = 60.0  # until a process that uses a row looks again whether it says the same
KEPT_AT_MOST = 10_000

# Whether the columns of the row `d` follow those of `excluded`.
FOLLOWS = "d.edited_at IS NULL AND d.declared IS DISTINCT FROM excluded.declared"
_SECONDS = STALE_AFTER.total_seconds()
_IS_CONFIRMED = IS_CONFIRMED.format(started="%(started)s::timestamptz", stale_after=_SECONDS)
_MAY_REPLACE = MAY_REPLACE.format(started="excluded.declarer_started_at", stale_after=_SECONDS)


class LastDeclaration(NamedTuple):
    """What this process has last declared for a row."""

    columns: Mapping[str, Any]
    started: datetime  # the process; or when it began to say something else than before
    at: float  # time.monotonic() of its last look


class DeclaredRows:
    """The rows of one table, and what this process has declared for them."""

    def __init__(self, table: str, columns: Mapping[str, str], more: str = "") -> None:
        """`columns`: their types. `more`: the further columns that an UPDATE sets."""
        names = ", ".join(columns)
        values = ", ".join(f"%({name})s::{kind}" for name, kind in columns.items())
        follow = ",\n    ".join(
            f"{name} = CASE WHEN {FOLLOWS} THEN excluded.{name} ELSE d.{name} END" for name in columns
        )
        # A row that is confirmed is not even locked. Index: the primary key.
        self.statement = Statement(
            qualified(f"""
INSERT INTO {table} AS d (name, declared, declared_at, declarer_started_at, {names})
SELECT %(name)s::text, %(declared)s::jsonb, clock_timestamp(), least(%(started)s::timestamptz, clock_timestamp()),
    {values}
WHERE NOT EXISTS (SELECT FROM {table} AS d WHERE d.name = %(name)s::text AND d.declared = %(declared)s::jsonb
    AND {_IS_CONFIRMED})
ON CONFLICT (name) DO UPDATE SET declared = excluded.declared, declared_at = excluded.declared_at,
    declarer_started_at = CASE WHEN d.declared = excluded.declared
        THEN greatest(d.declarer_started_at, excluded.declarer_started_at) ELSE excluded.declarer_started_at END,
    {follow}{more}
WHERE d.declared = excluded.declared OR {_MAY_REPLACE}""")
        )
        self.said: dict[tuple[str, str], LastDeclaration] = {}

    def declare(
        self, pool: Pool, name: str, columns: Mapping[str, Any], *, again: bool = False
    ) -> Operation[None]:
        """Makes the row say what is declared, unless a newer process says something else. A process does so once, for
        each change, every AGAIN_SECONDS, and with `again`. Raises LimitsError."""
        key, now = (pool.alias, name), time.monotonic()
        last = self.said.get(key)
        is_same = last is not None and last.columns == columns
        if last is not None and is_same and now - last.at < AGAIN_SECONDS and not again:
            return
        started = STARTED_AT if last is None else last.started if is_same else datetime.now(UTC)
        if len(self.said) >= KEPT_AT_MOST:
            self.said.clear()
        # Noted before it is done: of many callers at once only one does it.
        self.said[key] = LastDeclaration(columns, started, now)
        declared = json.dumps(columns)
        try:
            yield from call(pool, self.statement, name=name, declared=declared, started=started, **columns)
        except BaseException:
            self.forget(pool, name)
            raise

    def forget(self, pool: Pool, name: str) -> None:
        """Notes that the row does not exist any more."""
        self.said.pop((pool.alias, name), None)
