"""The row of a budget: made when the budget is first used, changed when the code says something else of it."""

from __future__ import annotations

from pgonly_django.limits.declared_rows import FOLLOWS, Declarations

ROWS = Declarations(
    "pgonly_budget",
    {"usd": "numeric", "per": "text", "timezone": "text"},
    f""",
    resumed_at = CASE WHEN {FOLLOWS} AND excluded.usd > d.usd THEN clock_timestamp() ELSE d.resumed_at END""",
)
