"""Python values to bytes and back. Every entry says how it was written, so the settings may change at any time."""

import importlib
import json
import pickle
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.utils.module_loading import import_string

# The column `codec` says how its entry was written: these two added up. An INTEGER is in the column `number`.
INTEGER, PICKLE, JSON, OWN = 0, 1, 2, 3
NONE, ZLIB, ZSTD = 0, 10, 20
_SERIALIZERS = {"pickle": PICKLE, "json": JSON}
_COMPRESSORS = {None: NONE, "zlib": ZLIB, "zstd": ZSTD}

_INT8_MIN, _INT8_MAX = -(2**63), 2**63 - 1

Encoded = tuple[int, int | None, bytes | None]  # codec, number, value


class Serializer(Protocol):
    """What `OPTIONS["SERIALIZER"]` may name: a class with these two methods, made without arguments."""

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
    """`data` without its compression."""
    compressor = codec // 10 * 10
    if compressor == ZLIB:
        return zlib.decompress(data)
    return zstd().decompress(data) if compressor == ZSTD else data


def zstd() -> Any:
    """The module with compress() and decompress(): Python 3.14's own or its backport. ImportError without."""
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
