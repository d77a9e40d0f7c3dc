"""What is inside a stored session, for people who may see it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pgonly_django.conf import settings
from pgonly_django.sessions.store import SessionStore

if TYPE_CHECKING:
    from pgonly_django.models import Session

MASK = "••••••"


def decoded(session: Session) -> dict[Any, Any]:
    """The session's dict, as the site's code sees it."""
    return SessionStore().decoded(session.data or {})


def masked(value: Any) -> Any:
    """`value` with all under keys that match PGONLY["SESSION_MASKED_KEYS"] hidden, however deep."""
    if isinstance(value, dict):
        return {key: MASK if _is_secret(key) else masked(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(inner) for inner in value]
    return value


def in_words(value: Any) -> str:
    """For what JSON has no word for: an object only by its type, its repr() may name secrets."""
    return str(value) if isinstance(value, (date, Decimal, UUID)) else f"<{type(value).__name__}>"


def _is_secret(key: Any) -> bool:
    return any(fnmatchcase(str(key).lower(), pattern.lower()) for pattern in settings().session_masked_keys)
