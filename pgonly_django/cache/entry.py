"""An entry as it is stored: its key, its value in bytes, its row in one of the two tables, and the pieces of SQL that
statements share. A new column that writes set is one line in `_VALUES`."""

import functools
import hashlib
import importlib
import json
import pickle
import re
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.utils.module_loading import import_string

from pgonly_django.database.statement import Statement
from pgonly_django.tables import qualified

CACHE_TABLES = ("pgonly_cache", "pgonly_cache_durable")  # indexed by OPTIONS["DURABLE"]
Statements = tuple[Statement, Statement]  # indexed by OPTIONS["DURABLE"]

# In a statement: wakes the callers that wait for what payload() of database/listener.py makes of a key.
CHANNEL = "pgonly_cache"
WAKE_UP = f"pg_notify('{CHANNEL}', %(payload)s::text)"


def for_both_tables(sql: str, names: str = "", **flags: bool) -> Statements:
    """Returns the statement for each of the two tables. `sql` has `{table}` where the entries are; see Statement for
    the rest. Cleaning, and walking over many entries, may take long: no other call is refused because of it.
    """
    unlogged, durable = (
        Statement(qualified(sql.replace("{table}", table)), names, **flags) for table in CACHE_TABLES
    )
    return unlogged, durable


# A key is `<namespace>:<what Django made of the key>`, readable where possible. The namespace (LOCATION) has no ":", so
# one cache is one range of the primary key.
KEY_LIMIT = 1000  # bytes; a btree page takes 2,704
_HEAD = 800
_MARK = "#sha256:"
# NUL and lone surrogates are in no stored key.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def namespace(location: str | None) -> str:
    """Returns LOCATION as the first part of every key of that cache. Raises ImproperlyConfigured."""
    if location is not None and not isinstance(location, str):
        raise ImproperlyConfigured(f'LOCATION must be text such as "answers", got {location!r}.')
    return quote(location or "default", safe=" !#$&'()*+,/;=?@[]") + ":"


def stored_key(key: str) -> bytes:
    """Returns `key` itself, or its readable head and a hash where PostgreSQL cannot hold or index it."""
    if len(key) <= KEY_LIMIT and key.isascii() and "\0" not in key and _MARK not in key:
        return key.encode()
    raw = key.encode("utf-8", "surrogatepass")
    if len(raw) <= KEY_LIMIT and _MARK not in key and UNSTORABLE.search(key) is None:
        return raw
    head = raw[:_HEAD].decode("utf-8", "ignore").replace("\0", "?").replace(_MARK, "?")
    return f"{head}{_MARK}{hashlib.sha256(raw).hexdigest()}".encode()


def tag_names(tags: Iterable[str]) -> tuple[str, ...]:
    """Returns the tags as given. Raises TypeError for a single text, of which each letter would be a tag."""
    if isinstance(tags, str):
        raise TypeError(f"tags must be a list of texts, got {tags!r}. Give [{tags!r}].")
    names = tuple(tags)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"A tag must be a text, got {name!r}.")
    return names


# clock_timestamp(), because now() stands still inside a transaction (a test's, for example).
LIVE = "(expires_at IS NULL OR expires_at > clock_timestamp())"
# The columns that Store.value() reads, in its order.
VALUE = "number, codec, value"

# What a row takes of MAX_BYTES: its key in table and index, its value, and about 100 bytes of headers and columns.
OVERHEAD_BYTES = 100
SIZE = f"(octet_length(key) * 2 + coalesce(octet_length(value), 0) + {OVERHEAD_BYTES})"


def size_of(key_bytes: int, value_bytes: int) -> int:
    """Returns the sum that SIZE computes."""
    return key_bytes * 2 + value_bytes + OVERHEAD_BYTES


def minute_of(moment: str) -> str:
    """Returns a moment as `prune_minute` has it: coarse, so that writing a key again soon leaves its index alone
    (HOT)."""
    return f"floor(date_part('epoch', {moment}) / 60)::int4"


def after(seconds: str) -> str:
    """Returns a FROM item with `e`, the moment after this number of seconds; NULL, which is forever, after NULL."""
    return f"(SELECT clock_timestamp() + {seconds} * interval '1 second') AS x (e)"


SET_EXPIRY = f"SET expires_at = e, prune_minute = {minute_of('e')}"


class EntryRow(NamedTuple):
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
        """The bytes that the entry will take, see SIZE."""
        return size_of(len(self.key), 0 if self.value is None else len(self.value))


ROW = " ".join(EntryRow._fields)

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
# The items come as arrays. unnest() keeps the order given, so rows are locked in the order of their keys. unnest()
# stands in a SELECT list: in FROM, all rows are copied into a tuplestore first, and 100 small values take the server 7
# % longer. OFFSET 0: the expiry is computed once.
INSERT_MANY = _insert(
    {**_VALUES, **{column: f"item.{column}" for column in _UNNESTED}},
    f"(SELECT {', '.join(f'unnest({_VALUES[column]}[]) AS {column}' for column in _UNNESTED)}) AS item, "
    f"({_EXPIRY} OFFSET 0) AS expiry",
)
# Behind an INSERT: every column is overwritten.
_CHANGED = [column for column in _VALUES if column != "key"]
OVERWRITE = "ON CONFLICT (key) DO UPDATE SET " + ", ".join(f"{each} = EXCLUDED.{each}" for each in _CHANGED)
# Behind an UPDATE: every column of one row is overwritten.
REWRITE = f"SET {', '.join(f'{each} = {_VALUES[each]}' for each in _CHANGED)} FROM ({_EXPIRY}) AS expiry"

# To delete a value takes time for each 2 KB of it, which are a row: 32 MB take 0.03 to 0.15 s.
DELETED_BYTES = 32 * 1024 * 1024


def first_bytes(rows: str, order: str) -> str:
    """Returns a query for the keys of as many of `rows` (key, size, ...) as one statement may delete, at least one."""
    return (
        f"SELECT key FROM (SELECT key, sum(size) OVER (ORDER BY {order}) - size AS before FROM {rows}) AS summed "
        f"WHERE before < {DELETED_BYTES}"
    )


# The column `codec` says how its entry was written: the sum of one of each line. An INTEGER is in the column `number`.
INTEGER, PICKLE, JSON, OWN = 0, 1, 2, 3
NONE, ZLIB, ZSTD = 0, 10, 20
_SERIALIZERS = {"pickle": PICKLE, "json": JSON}
_COMPRESSORS = {None: NONE, "zlib": ZLIB, "zstd": ZSTD}

_INT8_MIN, _INT8_MAX = -(2**63), 2**63 - 1

Encoded = tuple[int, int | None, bytes | None]  # codec, number, value


class Serializer(Protocol):
    """The interface that `OPTIONS["SERIALIZER"]` names: a class with these two methods, made without arguments."""

    def dumps(self, value: Any) -> bytes: ...
    def loads(self, data: bytes) -> Any: ...


class Codec:
    """Writes as the options say; reads whatever any options have written.

    Raises ImproperlyConfigured where the serializer or the compressor cannot be imported.
    """

    def __init__(self, serializer: str, compressor: str | None, compress_above: int) -> None:
        self._serializer = _SERIALIZERS.get(serializer, OWN)
        self._path = serializer
        self._compressor = _COMPRESSORS[compressor]
        self._compress_above = compress_above
        self._dumps = self._writer()
        if self._compressor == ZSTD:
            try:
                zstd()
            except ImportError as error:
                raise ImproperlyConfigured(f"{error}.") from error

    def encode(self, value: Any) -> Encoded:
        if type(value) is int and _INT8_MIN <= value <= _INT8_MAX:
            return INTEGER, value, None
        data = self._dumps(value)
        if self._compressor and len(data) > self._compress_above:
            packed = zlib.compress(data) if self._compressor == ZLIB else zstd().compress(data)
            return self._serializer + self._compressor, None, packed
        return self._serializer, None, data

    def decode(self, codec: int, data: bytes) -> Any:
        if codec == PICKLE:
            return pickle.loads(data)  # noqa: S301 - what was written with SERIALIZER "pickle"; docs/how-to/cache.md says so
        if codec >= ZLIB:
            data = unpack(codec, data)
        return _READERS[codec % 10](data)

    def _writer(self) -> Callable[[Any], bytes]:
        if self._serializer == PICKLE:
            return lambda value: pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        if self._serializer == JSON:
            return lambda value: json.dumps(value, cls=DjangoJSONEncoder).encode()
        own = _own_serializer(self._path)
        name = self._path.encode()
        return lambda value: name + b"\n" + own.dumps(value)


def _own_serializer(path: str) -> Serializer:
    problem = f'OPTIONS["SERIALIZER"] must be "pickle", "json" or the dotted path of a class, got {path!r}'
    try:
        own: Serializer = import_string(path)()
    except (ImportError, TypeError) as error:
        raise ImproperlyConfigured(f"{problem}: {error}.") from error
    if not (callable(getattr(own, "dumps", None)) and callable(getattr(own, "loads", None))):
        raise ImproperlyConfigured(f"{problem}, which needs the methods dumps(value) and loads(data).")
    return own


def unpack(codec: int, data: bytes) -> bytes:
    compressor = codec // 10 * 10
    if compressor == ZLIB:
        return zlib.decompress(data)
    return zstd().decompress(data) if compressor == ZSTD else data


@functools.cache  # a look for a missing module takes longer than to compress 10 KB
def zstd() -> Any:
    """Returns the module with compress() and decompress(): Python 3.14's or its backport. Raises ImportError."""
    for name in ("compression.zstd", "backports.zstd", "zstandard"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError('OPTIONS["COMPRESSOR"] "zstd" needs Python 3.14, or: pip install backports.zstd')


def _read_own(data: bytes) -> Any:
    path, _, payload = data.partition(b"\n")
    own: Serializer = import_string(path.decode())()
    return own.loads(payload)


_READERS: dict[int, Callable[[bytes], Any]] = {PICKLE: pickle.loads, JSON: json.loads, OWN: _read_own}
