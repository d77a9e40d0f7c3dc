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
DEEPER = "…"
LEVELS_SHOWN = 50


def decoded(session: Session) -> dict[Any, Any]:
    """The session's dict, as the site's code sees it."""
    return SessionStore().decoded(session.data or {})


def masked(value: Any, levels: int = LEVELS_SHOWN) -> Any:
    """`value` with all under keys that match PGONLY["SESSION_MASKED_KEYS"] hidden; below `levels` nothing is shown."""
    if not isinstance(value, (dict, list, tuple)):
        return value
    if not levels:
        return DEEPER
    if isinstance(value, dict):
        return {key: MASK if _is_secret(key) else masked(inner, levels - 1) for key, inner in value.items()}
    return [masked(inner, levels - 1) for inner in value]


def in_words(value: Any) -> str:
    """For what JSON has no word for: an object only by its type, its repr() may name secrets."""
    return str(value) if isinstance(value, (date, Decimal, UUID)) else f"<{type(value).__name__}>"


def _is_secret(key: Any) -> bool:
    return any(fnmatchcase(str(key).lower(), pattern.lower()) for pattern in settings().session_masked_keys)
