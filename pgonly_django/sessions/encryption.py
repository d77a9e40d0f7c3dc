"""Encrypts the values inside a session, under keys derived from SECRET_KEY and SECRET_KEY_FALLBACKS.

AES-SIV with a random nonce (RFC 5297, section 3): authenticated, and safe for any number of values under one key.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signing import BadSignature
from django.utils.crypto import salted_hmac

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

SALT = "pgonly_django.sessions.sealing"  # as it was at first: with another one no stored value could be decrypted
NONCE_BYTES = 16
# The first byte of the encrypted text says what the rest is: JSON text, or the bytes of another serializer.
_TEXT, _BYTES = b"t", b"b"
REMEDY = """Install it: pip install "cryptography>=43"."""


def encrypt(name: str, raw: str | bytes) -> str:
    """`raw` encrypted and bound to the member's `name`, as base64. Every call returns another text."""
    plain = _TEXT + raw.encode() if isinstance(raw, str) else _BYTES + raw
    nonce = os.urandom(NONCE_BYTES)
    encrypted = _cipher(django_settings.SECRET_KEY).encrypt(plain, [name.encode(), nonce])
    return b64encode(nonce + encrypted).decode()


def decrypt(name: str, encrypted: str) -> str | bytes:
    """What encrypt() was given. Raises BadSignature where no key fits, or where the member had another name."""
    plain = _decrypt(name, encrypted, [django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS])
    if plain is None:
        raise BadSignature("No key decrypts it.")
    return plain[1:].decode() if plain[:1] == _TEXT else plain[1:]


def has_current_key(name: str, encrypted: str) -> bool:
    """False for a value that was encrypted under one of SECRET_KEY_FALLBACKS."""
    return _decrypt(name, encrypted, [django_settings.SECRET_KEY]) is not None


def _decrypt(name: str, encrypted: str, secrets: list[Any]) -> bytes | None:
    """None where no key fits, and for what encrypt() never wrote."""
    try:
        message = b64decode(encrypted)
    except (TypeError, ValueError):
        return None
    for secret in secrets:
        cipher, wrong_key = _cipher(secret), _wrong_key()
        try:
            return cipher.decrypt(message[NONCE_BYTES:], [name.encode(), message[:NONCE_BYTES]])
        except wrong_key:
            continue
    return None


def is_installed() -> bool:
    return find_spec("cryptography") is not None


@lru_cache(maxsize=16)
def _cipher(secret: str | bytes) -> AESSIV:
    _wrong_key()
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    return AESSIV(salted_hmac(SALT, b"", secret, algorithm="sha512").digest())


@cache
def _wrong_key() -> type[Exception]:
    """The library's exception for a key that does not fit. Raises ImproperlyConfigured without the library."""
    try:
        from cryptography.exceptions import InvalidTag
    except ImportError as error:
        raise ImproperlyConfigured(f"Encrypted sessions need the package cryptography. {REMEDY}") from error
    return InvalidTag
