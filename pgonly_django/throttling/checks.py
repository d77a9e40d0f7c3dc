"""The system check of the throttles that a project names in its settings."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from pgonly_django.throttling.counted import CountedThrottle


def check_throttles(**_: Any) -> list[checks.CheckMessage]:
    """E073: a throttle of DEFAULT_THROTTLE_CLASSES counts in a cache that is no PostgresCache."""
    if not apps.is_installed("rest_framework"):
        return []
    found: list[checks.CheckMessage] = []
    for named in getattr(settings, "REST_FRAMEWORK", {}).get("DEFAULT_THROTTLE_CLASSES", ()):
        try:
            throttle = import_string(named) if isinstance(named, str) else named
            is_wrong = issubclass(throttle, CountedThrottle) and throttle.store_or_none() is None
        except (ImportError, TypeError, ImproperlyConfigured):
            continue  # the framework says so, or E101 of the cache
        if is_wrong:
            message = (
                f"{throttle.__name__} of DEFAULT_THROTTLE_CLASSES counts in a cache that is no PostgresCache."
            )
            found.append(checks.Error(message, hint=throttle.remedy(), id="pgonly_django.E073"))
    return found
