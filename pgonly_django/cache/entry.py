"""A row of the cache's two tables: the pieces of SQL that statements share, and the parameters of a write.

A new column that writes set is one line in `_VALUES`.
"""

from typing import NamedTuple

TABLES = ("pgonly_cache", "pgonly_cache_durable")  # indexed by OPTIONS["DURABLE"]

# clock_timestamp(), because now() stands still inside a transaction (a test's, for example).
LIVE = "(expires_at IS NULL OR expires_at > clock_timestamp())"
# The columns that Store.value() reads, in its order.
VALUE = "number, codec, value"

# What a row takes of MAX_BYTES: its key in table and index, its value, and about 100 bytes of headers and columns.
OVERHEAD_BYTES = 100
SIZE = f"(octet_length(key) * 2 + coalesce(octet_length(value), 0) + {OVERHEAD_BYTES})"


def size_of(key_bytes: int, value_bytes: int) -> int:
    """The same sum as SIZE."""
    return key_bytes * 2 + value_bytes + OVERHEAD_BYTES


def minute_of(moment: str) -> str:
    """A moment as `prune_minute` has it. Coarse, so that writing a key again soon leaves its index alone (HOT)."""
    return f"floor(date_part('epoch', {moment}) / 60)::int4"


def after(seconds: str) -> str:
    """A FROM item with `e`, the moment in so many seconds; NULL, which is for ever, after NULL."""
    return f"(SELECT clock_timestamp() + {seconds} * interval '1 second') AS x (e)"


EXPIRE = f"SET expires_at = e, prune_minute = {minute_of('e')}"


class Row(NamedTuple):
    """The parameters of a write, as they are sent."""

    key: bytes
    value: bytes | None
    number: bytes | None
    codec: bytes
    seconds: bytes | None  # until it expires; None: never
    stale: bytes  # seconds that it is kept after that, to be shown stale
    tags: bytes | None

    @property
    def size(self) -> int:
        """What the entry will take, see SIZE."""
        return size_of(len(self.key), 0 if self.value is None else len(self.value))


ROW = " ".join(Row._fields)

# Every column that a write sets, with its value. A claim ends with a write.
_VALUES = {
    "key": "%(key)s::text",
    "value": "%(value)s::bytea",
    "number": "%(number)s::int8",
    "codec": "%(codec)s::int2",
    "expires_at": "e",
    "prune_minute": "minute",
    "tags": "%(tags)s::text[]",
    "claim": "NULL",
    "claimed_until": "NULL",
}
_UNNESTED = ("key", "value", "number", "codec")
_KEPT_UNTIL = "e + %(stale)s::float8 * interval '1 second'"
_EXPIRY = f"SELECT e, {minute_of(_KEPT_UNTIL)} AS minute FROM {after('%(seconds)s::float8')}"


def _insert(values: dict[str, str], source: str) -> str:
    return f"INSERT INTO {{table}} AS entry ({', '.join(values)}) SELECT {', '.join(values.values())} FROM {source} "


INSERT = _insert(_VALUES, f"({_EXPIRY}) AS expiry")
# The items come as arrays. unnest keeps the order given, so rows are locked in the order of their keys. OFFSET 0:
# the expiry is computed once.
INSERT_MANY = _insert(
    {**_VALUES, **{column: f"item.{column}" for column in _UNNESTED}},
    f"unnest({', '.join(f'{_VALUES[column]}[]' for column in _UNNESTED)}) AS item ({', '.join(_UNNESTED)}), "
    f"({_EXPIRY} OFFSET 0) AS expiry",
)
# Behind an INSERT: every column is overwritten.
_CHANGED = [column for column in _VALUES if column != "key"]
OVERWRITE = "ON CONFLICT (key) DO UPDATE SET " + ", ".join(f"{each} = EXCLUDED.{each}" for each in _CHANGED)
# In an UPDATE of one row: the same.
REWRITE = f"SET {', '.join(f'{each} = {_VALUES[each]}' for each in _CHANGED)} FROM ({_EXPIRY}) AS expiry"

# Deleting a value takes as long as it is large (each 2 KB of it is a row): 32 MB take 0.03 to 0.15 s.
DELETED_BYTES = 32 * 1024 * 1024


def first_bytes(rows: str, order: str) -> str:
    """A query for the keys of as many of `rows` (key, size, ...) as one statement may delete; one at least."""
    return (
        f"SELECT key FROM (SELECT key, sum(size) OVER (ORDER BY {order}) - size AS before FROM {rows}) AS summed "
        f"WHERE before < {DELETED_BYTES}"
    )
