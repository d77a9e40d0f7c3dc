"""What is inside a stored session, with the secrets masked, for people who may see it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

from pgonly_django.conf import settings

MASK = "••••••"
DEEPER = "…"
LEVELS_SHOWN = 50


def masked(value: Any, levels: int = LEVELS_SHOWN) -> Any:
    """`value` without what is under keys that match PGONLY["SESSION_MASKED_KEYS"], and without what is too deep."""
    if not isinstance(value, (dict, list, tuple)):
        return value
    if not levels:
        return DEEPER
    if isinstance(value, dict):
        return {key: MASK if _is_secret(key) else masked(inner, levels - 1) for key, inner in value.items()}
    return [masked(inner, levels - 1) for inner in value]


def as_text(value: Any) -> str:
    """For values that JSON does not have. Of an object only the type: its repr() may name secrets."""
    return str(value) if isinstance(value, (date, Decimal, UUID)) else f"<{type(value).__name__}>"


def _is_secret(key: Any) -> bool:
    return any(fnmatchcase(str(key).lower(), pattern.lower()) for pattern in settings().session_masked_keys)
