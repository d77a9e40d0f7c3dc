"""What is inside a stored session, with the secrets masked, for people who may see it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from pgonly_django import masking
from pgonly_django.conf import settings


def masked(value: Any) -> Any:
    """`value` without what is under keys that match PGONLY["SESSION_MASKED_KEYS"], and without what is too deep."""
    return masking.masked(value, settings().session_masked_keys)


def as_text(value: Any) -> str:
    """For values that JSON does not have. Of an object only the type: its repr() may name secrets."""
    return str(value) if isinstance(value, (date, Decimal, UUID)) else f"<{type(value).__name__}>"
