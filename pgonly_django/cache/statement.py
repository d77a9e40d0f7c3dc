"""A statement of the cache: its text for each of the two tables, and how its parameters travel."""

from __future__ import annotations

from pgonly_django.cache.entry import TABLES
from pgonly_django.database.binary import prepared


class Statement:
    """`sql` with `{table}` where the entries are, and the types of `$1`, `$2`, ... in one string.

    Cleaning, and what walks over many entries, may take long: then no other call is refused for it.
    """

    def __init__(self, sql: str, types: str = "", *, may_take_long: bool = False) -> None:
        self.sql, self.types = sql, types
        self.variants = tuple(
            prepared(sql.replace("{table}", table), types, may_take_long=may_take_long) for table in TABLES
        )
