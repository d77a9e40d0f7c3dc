"""A statement of the cache: its text for each of the two tables, and how its parameters travel."""

from __future__ import annotations

from pgonly_django.database.binary import prepared

TABLES = ("pgonly_cache", "pgonly_cache_durable")  # indexed by OPTIONS["DURABLE"]

# clock_timestamp(), because now() stands still inside a transaction (a test's, for example).
LIVE = "(expires_at IS NULL OR expires_at > clock_timestamp())"
# What a row takes of MAX_BYTES: key in table and index, value, and about 100 bytes of headers and columns.
SIZE = "(octet_length(key) * 2 + coalesce(octet_length(value), 0) + 100)"

# Deleting a value takes as long as it is large (each 2 KB of it is a row of its own): 32 MB take 0.03 to 0.15 s.
DELETED_BYTES = 32 * 1024 * 1024


class Statement:
    """`sql` with `{table}` where the entries are, and the types of `$1`, `$2`, ... in one string.

    Cleaning, and what walks over many entries, may take long: then no other call is refused for it.
    """

    def __init__(self, sql: str, types: str = "", *, may_take_long: bool = False) -> None:
        self.sql, self.types = sql, types
        self.variants = tuple(
            prepared(sql.replace("{table}", table), types, may_take_long=may_take_long) for table in TABLES
        )


def first_bytes(rows: str, order: str) -> str:
    """A query for the keys of as many of `rows` (key, size, ...) as one statement may delete; one at least."""
    return (
        f"SELECT key FROM (SELECT key, sum(size) OVER (ORDER BY {order}) - size AS before FROM {rows}) AS summed "
        f"WHERE before < {DELETED_BYTES}"
    )
