"""Converts between a session's dict and its column: one JSON member per top-level key, so that PostgreSQL can merge.

A member is one of
* a string: the value as JSON text;
* {"encoded": ...}: the value in Django's signed encoding, for any other SESSION_SERIALIZER;
* {"sealed": ...}: the value encrypted with AES-SIV under a key derived from SECRET_KEY or SECRET_KEY_FALLBACKS, and a
  random nonce (RFC 5297, section 3): authenticated, and safe for any number of values under one key.

The JSON text is not unpacked into JSONB, which would refuse NUL and NaN, reorder the keys of nested dicts and turn 1e16
into an integer. As text every value comes back as Django's engines return it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from base64 import b64decode, b64encode
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.contrib.sessions.serializers import JSONSerializer
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.utils.crypto import salted_hmac

from pgonly_django.conf import settings
from pgonly_django.error_texts import is_raised_again

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

# A value as its serializer wrote it: text from JSON, bytes from any other serializer.
EncodedValue = str | bytes
# Members by their names.
EncodedEntries = dict[str, EncodedValue]

# A key that cannot be the name of a JSON member gets this and a hash as its name; the value carries the key.
ESCAPE = "\x01"

SALT = "pgonly_django.sessions.sealing"  # as it was at first: with another salt no stored value could be decrypted
NONCE_BYTES = 16
# The first byte of the encrypted text says what the rest is: JSON text, or the bytes of another serializer.
_TEXT, _BYTES = b"t", b"b"
REMEDY = """Install it: pip install "cryptography>=43"."""

_to_json = json.JSONEncoder(separators=(",", ":")).encode
_raw_decode = json.JSONDecoder().raw_decode
_security_log = logging.getLogger("django.security.SuspiciousSession")


class SessionCodec:
    def __init__(self, serializer: Any, salt: str) -> None:
        self._serializer = serializer
        self._salt = salt
        self._is_json = serializer is JSONSerializer

    @property
    def _encrypts(self) -> bool:
        return settings().session_encrypt_data

    def encode(self, session: dict[Any, Any]) -> EncodedEntries:
        """Returns every value as it would be stored now. A value that encodes to something else later has changed."""
        return dict(self._entry(key, value) for key, value in session.items())

    def encode_what_can_be(self, session: dict[Any, Any]) -> tuple[EncodedEntries, list[str]]:
        """Returns what encode() does, and the keys whose values the serializer refuses."""
        entries: EncodedEntries = {}
        refused = []
        for key, value in session.items():
            try:
                name, raw = self._entry(key, value)
            except Exception as error:
                if not is_raised_again(error, self._entry, key, value):
                    raise
                refused.append(str(key))
            else:
                entries[name] = raw
        return entries, refused

    def column(self, entries: EncodedEntries) -> str:
        return _to_json({name: self._member(name, raw) for name, raw in entries.items()})

    def decode(self, column: dict[str, Any]) -> tuple[dict[Any, Any], EncodedEntries]:
        """Returns the session and its entries. An unreadable member is logged, left out, and stays in the row."""
        session: dict[Any, Any] = {}
        entries: EncodedEntries = {}
        for name, member in column.items():
            try:
                entries[name] = self._read_into(session, name, member)
            except signing.BadSignature:
                _security_log.warning("Session data corrupted")
            except ImproperlyConfigured:  # the library is missing: an empty session would log every user out
                raise
            except Exception as error:
                if not is_raised_again(error, self._read_into, session, name, member):
                    raise
                _security_log.warning("Session value under %r cannot be read: %r", name, error)
        return session, entries

    def reencrypted(self, column: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Returns members that would be stored differently now (readable, or under SECRET_KEY), and the new JSON
        text."""
        old = {name: member for name, member in column.items() if self._is_stored_otherwise(name, member)}
        _, entries = self.decode(old)
        return {name: old[name] for name in entries}, self.column(entries)

    def _is_stored_otherwise(self, name: str, member: Any) -> bool:
        encrypted = member.get("sealed") if isinstance(member, dict) else None
        if encrypted is None or not self._encrypts:
            return self._encrypts == (encrypted is None)
        # None: the value is encrypted under one of the fallbacks.
        return _decrypt(name, encrypted, [django_settings.SECRET_KEY]) is None

    def _entry(self, key: Any, value: Any) -> tuple[str, EncodedValue]:
        if self._is_json and not isinstance(key, str):
            key = next(iter(json.loads(_to_json({key: None}))))
        if isinstance(key, str) and key.isprintable():
            return key, self._dump(value)
        digest = hashlib.sha256(self._bytes(key)).hexdigest()
        return ESCAPE + digest, self._dump([key, value])

    def _dump(self, value: Any) -> EncodedValue:
        return _to_json(value) if self._is_json else self._bytes(value)

    def _bytes(self, value: Any) -> bytes:
        return bytes(self._serializer().dumps(value))

    def _member(self, name: str, raw: EncodedValue) -> str | dict[str, str]:
        if self._encrypts:
            return {"sealed": encrypt(name, raw)}
        if isinstance(raw, str):
            return raw
        return {"encoded": signing.dumps(raw, salt=self._salt, serializer=_NoSerializer, compress=True)}

    def _read_into(self, session: dict[Any, Any], name: str, member: Any) -> EncodedValue:
        raw, value = self._read_member(name, member)
        key, value = value if name[:1] == ESCAPE else (name, value)
        session[key] = value
        return raw

    def _read_member(self, name: str, member: str | dict[str, str]) -> tuple[EncodedValue, Any]:
        if isinstance(member, str):
            return member, from_json(member)
        if "sealed" in member:
            raw = decrypt(name, member["sealed"])
            if isinstance(raw, str):
                return raw, from_json(raw)
        else:
            raw = signing.loads(member["encoded"], salt=self._salt, serializer=_NoSerializer)
        value = self._serializer().loads(raw)
        # Not `raw`: a value that has been loaded may be pickled in another way than before.
        return self._bytes(value), value


def from_json(text: str) -> Any:
    """Does json.loads() for text without white space around it, in half of the time. A load does this for each key."""
    value, end = _raw_decode(text)
    if end != len(text):
        raise ValueError(f"More than one JSON value: {text[:100]!r}")
    return value


@lru_cache
def codec_for(serializer: Any, salt: str) -> SessionCodec:
    """Returns the codec that all stores of a class share."""
    return SessionCodec(serializer, salt)


class _NoSerializer:
    """A serializer for signing.dumps() and loads(), whose value is bytes already."""

    def dumps(self, obj: bytes) -> bytes:
        return obj

    def loads(self, data: bytes) -> bytes:
        return data


def encrypt(name: str, raw: str | bytes) -> str:
    """Returns `raw` encrypted and bound to the member's `name`, as base64. Every call returns another text."""
    plain = _TEXT + raw.encode() if isinstance(raw, str) else _BYTES + raw
    nonce = os.urandom(NONCE_BYTES)
    cipher, _ = _cipher(django_settings.SECRET_KEY)
    encrypted = cipher.encrypt(plain, [name.encode(), nonce])
    return b64encode(nonce + encrypted).decode()


def decrypt(name: str, encrypted: str) -> str | bytes:
    """Returns what encrypt() was given. Raises signing.BadSignature if no key fits, or the member had another name."""
    plain = _decrypt(name, encrypted, [django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS])
    if plain is None:
        raise signing.BadSignature("No key decrypts it.")
    return plain[1:].decode() if plain[:1] == _TEXT else plain[1:]


def _decrypt(name: str, encrypted: str, secrets: list[Any]) -> bytes | None:
    """Returns None where no key fits, and for anything that encrypt() never wrote."""
    try:
        message = b64decode(encrypted)
    except (TypeError, ValueError):
        return None
    for secret in secrets:
        cipher, wrong_key = _cipher(secret)
        try:
            return cipher.decrypt(message[NONCE_BYTES:], [name.encode(), message[:NONCE_BYTES]])
        except wrong_key:
            continue
    return None


@lru_cache(maxsize=16)
def _cipher(secret: str | bytes) -> tuple[AESSIV, type[Exception]]:
    """Returns the cipher, and what it raises if a key does not fit. Raises ImproperlyConfigured without its library."""
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV
    except ImportError as error:
        raise ImproperlyConfigured(f"Encrypted sessions need the package cryptography. {REMEDY}") from error
    return AESSIV(salted_hmac(SALT, b"", secret, algorithm="sha512").digest()), InvalidTag
