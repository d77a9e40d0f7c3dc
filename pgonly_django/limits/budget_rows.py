"""The row of a budget: made when the budget is first used, changed when the code says something else of it."""

from __future__ import annotations

import json

from pgonly_django.database.operation import Operation
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import Statement
from pgonly_django.limits.budget_settings import Declaration
from pgonly_django.limits.pool_user import call
from pgonly_django.tables import qualified

KEPT_AT_MOST = 10_000

# As the declare() of every Declared, but on a connection of ours: in the caller's transaction the row would be rolled
# back, or stay locked. Index: the primary key.
DECLARE = Statement(
    qualified("""
INSERT INTO pgonly_budget AS b (name, declared, usd, per, timezone, spent, reserved)
VALUES (%(name)s::text, %(declared)s::jsonb, %(usd)s::numeric, %(per)s::text, %(timezone)s::text, 0, 0)
ON CONFLICT (name) DO UPDATE SET declared = excluded.declared,
    usd = CASE WHEN b.edited_at IS NULL THEN excluded.usd ELSE b.usd END,
    per = CASE WHEN b.edited_at IS NULL THEN excluded.per ELSE b.per END,
    timezone = CASE WHEN b.edited_at IS NULL THEN excluded.timezone ELSE b.timezone END,
    resumed_at = CASE WHEN b.edited_at IS NULL AND excluded.usd > b.usd THEN clock_timestamp() ELSE b.resumed_at END
WHERE b.declared IS DISTINCT FROM excluded.declared
""")
)

# What this process has declared, by alias and name.
_declared: dict[tuple[str, str], Declaration] = {}


def is_declared(pool: Pool, name: str, declaration: Declaration) -> bool:
    """Whether this process has said the same before."""
    return _declared.get((pool.alias, name)) == declaration


def declare(pool: Pool, name: str, declaration: Declaration) -> Operation[None]:
    """Write it, unless a person has edited the row. Raises LimitsError."""
    columns = declaration.columns
    yield from call(pool, DECLARE, name=name, declared=json.dumps(columns), **columns)
    if len(_declared) >= KEPT_AT_MOST:
        _declared.clear()
    _declared[pool.alias, name] = declaration


def forget(pool: Pool, name: str) -> None:
    """There is no such row any more."""
    _declared.pop((pool.alias, name), None)
