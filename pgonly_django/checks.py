"""The system check of settings.PGONLY. Those of TASKS, CACHES and sessions stand in their folders' checks.py."""

from __future__ import annotations

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.conf import settings

DOCS = "docs/queue.md#checks"


def check_settings(**_: object) -> list[checks.CheckMessage]:
    """E001: settings.PGONLY does not validate."""
    try:
        settings()
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), hint=f"See {DOCS}.", id="pgonly_django.E001")]
    return []
