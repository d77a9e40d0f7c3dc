"""How the option `failed_retention` stands in the column of its name."""

from __future__ import annotations

from datetime import timedelta

from pgonly_django.conf import FAILED_RETENTION, LONGEST


def stored_retention(failed_retention: timedelta | None) -> timedelta | None:
    """As the column has it: NULL for the default, which most jobs have."""
    if failed_retention is None:
        return LONGEST + timedelta(days=1)
    return None if failed_retention == FAILED_RETENTION else failed_retention


def failed_retention_of(stored: timedelta | None) -> timedelta | None:
    """The inverse of stored_retention()."""
    if stored is None:
        return FAILED_RETENTION
    return None if stored > LONGEST else stored
