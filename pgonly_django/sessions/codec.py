"""Between a session's dict and its column: one JSON member per top-level key, so that PostgreSQL can merge.

A member is a string holding the value as JSON text, or {"encoded": ...} in Django's signed encoding for any
other SESSION_SERIALIZER, or {"sealed": ...}, encrypted (see sealing.py). The text is not unpacked into JSONB: that
would refuse NUL and NaN, reorder the keys of nested dicts and turn 1e16 into an integer; as text every value comes
back as Django's engines give it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from typing import Any

from django.contrib.sessions.serializers import JSONSerializer
from django.core import signing
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.conf import settings
from pgonly_django.sessions import sealing

# A value as its serializer wrote it: text from JSON, bytes from any other.
Raw = str | bytes
Entries = dict[str, Raw]

# Member names for keys that a JSON member cannot be called: this and a hash; the value carries the key.
ESCAPE = "\x01"

_to_json = json.JSONEncoder(separators=(",", ":")).encode
_security_log = logging.getLogger("django.security.SuspiciousSession")


class Codec:
    def __init__(self, serializer: Any, salt: str) -> None:
        self._serializer = serializer
        self._salt = salt
        self._is_json = serializer is JSONSerializer
        self._seals = settings().session_encrypt_data

    def entries(self, session: dict[Any, Any]) -> Entries:
        """Every member as it would be stored now: what differs from an earlier answer has changed."""
        return dict(self._entry(key, value) for key, value in session.items())

    def changed(self, entries: Entries, stored: Entries) -> Entries:
        """Those of `entries` that are not in `stored`, or another value there."""
        return {
            name: raw
            for name, raw in entries.items()
            if (before := stored.get(name)) != raw and not (before and _reads_as(before, raw))
        }

    def entries_that_fit(self, session: dict[Any, Any]) -> tuple[Entries, list[str]]:
        """As entries(), and the keys whose values the serializer cannot encode."""
        entries: Entries = {}
        left_out = []
        for key, value in session.items():
            try:
                name, raw = self._entry(key, value)
            except Exception:  # noqa: BLE001 - what pickling may raise has no bounds
                left_out.append(str(key))
            else:
                entries[name] = raw
        return entries, left_out

    def column(self, entries: Entries) -> str:
        """The JSON text for the database."""
        return _to_json({name: self._member(name, raw) for name, raw in entries.items()})

    def read(self, column: dict[str, Any]) -> tuple[dict[Any, Any], Entries]:
        """The session and its entries. A member nobody here can read is logged, left out and left alone."""
        session: dict[Any, Any] = {}
        entries: Entries = {}
        for name, member in _members(column):
            try:
                raw, value = self._read_member(name, member)
                key, value = value if name[:1] == ESCAPE else (name, value)
                session[key] = value
            except signing.BadSignature:
                _security_log.warning("Session data corrupted")
                continue
            except ImproperlyConfigured:  # without the library everybody would be logged out
                raise
            except Exception as error:  # noqa: BLE001 - what unpickling may raise has no bounds
                _security_log.warning("Session value under %r cannot be read: %r", name, error)
                continue
            entries[name] = raw
        return session, entries

    def _entry(self, key: Any, value: Any) -> tuple[str, Raw]:
        if self._is_json and not isinstance(key, str):
            key = next(iter(json.loads(_to_json({key: None}))))
        if isinstance(key, str) and key.isprintable():
            return key, self._dump(value)
        digest = hashlib.sha256(self._bytes(key)).hexdigest()
        return ESCAPE + digest, self._dump([key, value])

    def _dump(self, value: Any) -> Raw:
        return _to_json(value) if self._is_json else self._bytes(value)

    def _bytes(self, value: Any) -> bytes:
        return bytes(self._serializer().dumps(value))

    def rewritten(self, column: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Members that are not stored as they would be now, and their new JSON text: readable, or under SECRET_KEY."""
        old = {name: member for name, member in _members(column) if self._is_stored_otherwise(name, member)}
        _, entries = self.read(old)
        return {name: old[name] for name in entries}, self.column(entries)

    def _is_stored_otherwise(self, name: str, member: Any) -> bool:
        sealed = member.get("sealed") if isinstance(member, dict) else None
        if sealed is None or not self._seals:
            return self._seals == (sealed is None)
        return not sealing.is_under_present_key(name, sealed)

    def _member(self, name: str, raw: Raw) -> str | dict[str, str]:
        if self._seals:
            return {"sealed": sealing.seal(name, raw)}
        if isinstance(raw, str):
            return raw
        return {"encoded": signing.dumps(raw, salt=self._salt, serializer=_AsIs, compress=True)}

    def _read_member(self, name: str, member: str | dict[str, str]) -> tuple[Raw, Any]:
        if isinstance(member, str):
            return member, json.loads(member)
        if "sealed" in member:
            raw = sealing.unseal(name, member["sealed"])
            if isinstance(raw, str):
                return raw, json.loads(raw)
        else:
            raw = signing.loads(member["encoded"], salt=self._salt, serializer=_AsIs)
        value = self._serializer().loads(raw)
        # Not `raw`: the same value may be pickled another way once it has been loaded.
        return self._bytes(value), value


def _members(column: Any) -> Iterable[tuple[str, Any]]:
    """None where another program has put something else than an object there."""
    return column.items() if isinstance(column, dict) else ()


def _reads_as(stored: Raw, raw: Raw) -> bool:
    """Keys 1 and "1" of a dict are both written, and read as one: so the stored text is the longer."""
    if isinstance(stored, bytes) or isinstance(raw, bytes) or len(stored) <= len(raw):
        return False
    return _to_json(json.loads(stored)) == raw


class _AsIs:
    """A serializer for what is bytes already."""

    def dumps(self, obj: bytes) -> bytes:
        return obj

    def loads(self, data: bytes) -> bytes:
        return data
