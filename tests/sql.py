"""SQL of a test's own, on Django's connection to the test database."""

from __future__ import annotations

from typing import Any

from django.db import connections


def sql(query: str, *params: Any, using: str = "default") -> list[Any]:
    """The rows; none where the statement returns none."""
    with connections[using].cursor() as cursor:
        cursor.execute(query, params or None)
        return cursor.fetchall() if cursor.description else []


def value(query: str, *params: Any) -> Any:
    """The one value that it returns."""
    ((found,),) = sql(query, *params)
    return found


def setting(name: str) -> str | None:
    return value("SELECT current_setting(%s, true)", name)
