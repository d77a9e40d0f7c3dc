"""Who may run a tick: a caller with the signed URL or with PGONLY["TICK_SECRET"]."""

from __future__ import annotations

from django.core.signing import BadSignature, Signer
from django.utils.crypto import constant_time_compare

from pgonly_django.conf import settings

SALT = "pgonly_django.worker.tick"
BEARER = "bearer "


def token() -> str:
    """It holds until SECRET_KEY or TICK_SECRET changes."""
    return _signer().signature(_subject())


def is_valid_token(given: str) -> bool:
    try:
        _signer().unsign(f"{_subject()}:{given}")
    except BadSignature:
        return False
    return True


def is_valid_header(authorization: str) -> bool:
    """Of the header Authorization: "Bearer <TICK_SECRET>", or the URL's token in its place."""
    if not authorization.lower().startswith(BEARER):
        return False
    given, secret = authorization[len(BEARER) :].strip(), settings().tick_secret
    is_secret = bool(secret) and constant_time_compare(given.encode(), secret.encode())
    return is_secret or is_valid_token(given)


def _signer() -> Signer:
    return Signer(salt=SALT)


def _subject() -> str:
    """Another TICK_SECRET makes another URL: so a URL that leaked is taken back."""
    return f"tick {settings().tick_secret}"
