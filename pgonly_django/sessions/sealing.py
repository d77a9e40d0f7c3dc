"""Encryption of what is inside a session, under keys derived from SECRET_KEY and SECRET_KEY_FALLBACKS.

AES-SIV with a random nonce (RFC 5297, section 3): authenticated, and no number of messages wears its key out.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signing import BadSignature
from django.utils.crypto import salted_hmac

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

SALT = "pgonly_django.sessions.sealing"
NONCE_BYTES = 16
# What the first byte says of the value: JSON text, or another serializer's bytes.
_TEXT, _BYTES = b"t", b"b"
REMEDY = """Install it: pip install "cryptography>=43"."""


def seal(name: str, raw: str | bytes) -> str:
    """`raw` encrypted and bound to the member's `name`, as base64; another text at every call."""
    plain = _TEXT + raw.encode() if isinstance(raw, str) else _BYTES + raw
    nonce = os.urandom(NONCE_BYTES)
    return b64encode(
        nonce + _cipher(django_settings.SECRET_KEY).encrypt(plain, [name.encode(), nonce])
    ).decode()


def unseal(name: str, sealed: str) -> str | bytes:
    """What seal() was given. Raises BadSignature where no key opens it, or under another name."""
    plain = _opened(name, sealed, [django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS])
    if plain is None:
        raise BadSignature("No key opens it.")
    return plain[1:].decode() if plain[:1] == _TEXT else plain[1:]


def is_under_present_key(name: str, sealed: str) -> bool:
    return _opened(name, sealed, [django_settings.SECRET_KEY]) is not None


def _opened(name: str, sealed: str, secrets: list[Any]) -> bytes | None:
    """None where no key opens it, and for what seal() never wrote."""
    try:
        message = b64decode(sealed)
    except (TypeError, ValueError):
        return None
    nonce, encrypted = message[:NONCE_BYTES], message[NONCE_BYTES:]
    for secret in secrets:
        cipher, invalid = _cipher(secret), _invalid()
        try:
            return cipher.decrypt(encrypted, [name.encode(), nonce])
        except invalid:
            continue
    return None


def is_installed() -> bool:
    try:
        _invalid()
    except ImproperlyConfigured:
        return False
    return True


@lru_cache(maxsize=16)
def _cipher(secret: str | bytes) -> AESSIV:
    _invalid()
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    return AESSIV(salted_hmac(SALT, b"", secret, algorithm="sha512").digest())


@cache
def _invalid() -> type[Exception]:
    """The library's exception for a message that a key does not open. Raises ImproperlyConfigured without it."""
    try:
        from cryptography.exceptions import InvalidTag
    except ImportError as error:
        raise ImproperlyConfigured(f"Encrypted sessions need the package cryptography. {REMEDY}") from error
    return InvalidTag
