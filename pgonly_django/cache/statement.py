"""The statements of the cache: each exists twice, once for each of the two tables."""

from pgonly_django.cache.entry import TABLES
from pgonly_django.database.statement import Statement
from pgonly_django.tables import qualified

Statements = tuple[Statement, Statement]  # indexed by OPTIONS["DURABLE"]

# In a statement: wakes those who wait for what payload() of listener.py makes of a key.
CHANNEL = "pgonly_cache"
WAKE_UP = f"pg_notify('{CHANNEL}', %(payload)s::text)"


def for_both_tables(sql: str, names: str = "", *, may_take_long: bool = False) -> Statements:
    """`sql` has `{table}` where the entries are. See Statement for `names`.

    Cleaning, and what walks over many entries, may take long: then no other call is refused for it.
    """
    unlogged, durable = (
        Statement(qualified(sql.replace("{table}", table)), names, may_take_long=may_take_long)
        for table in TABLES
    )
    return unlogged, durable
