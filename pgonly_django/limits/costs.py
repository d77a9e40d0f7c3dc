"""What calls have cost: kept for 90 days. The budgets keep their sums."""

from __future__ import annotations

from django.db import connections

from pgonly_django.tables import qualified

KEPT_DAYS = 90

# Index: pgonly_cost_at, a range of it, and the primary key.
PRUNE_COSTS = qualified("""
DELETE FROM pgonly_cost WHERE id = ANY (ARRAY (
    SELECT id FROM pgonly_cost WHERE at < statement_timestamp() - make_interval(days => %(kept_days)s)
    ORDER BY at LIMIT %(limit)s FOR UPDATE SKIP LOCKED))
""")


def prune_costs(alias: str, limit: int) -> int:
    """Delete one batch of old ones. Returns how many."""
    with connections[alias].cursor() as cursor:
        cursor.execute(PRUNE_COSTS, {"kept_days": KEPT_DAYS, "limit": limit})
        return int(cursor.rowcount)
