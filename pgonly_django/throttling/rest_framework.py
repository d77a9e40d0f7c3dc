"""Throttles for Django REST framework, with the names and the settings of its own."""

from __future__ import annotations

from rest_framework import throttling

from pgonly_django.throttling.counted import CountedThrottle


class PostgresThrottle(CountedThrottle, throttling.SimpleRateThrottle):  # type: ignore[misc]  # rest_framework has no types
    """Takes the place of SimpleRateThrottle. Subclasses have get_cache_key(), and `scope` or `rate`."""


class AnonRateThrottle(PostgresThrottle, throttling.AnonRateThrottle):  # type: ignore[misc]  # as above
    """See rest_framework.throttling.AnonRateThrottle."""


class UserRateThrottle(PostgresThrottle, throttling.UserRateThrottle):  # type: ignore[misc]  # as above
    """See rest_framework.throttling.UserRateThrottle."""


class ScopedRateThrottle(throttling.ScopedRateThrottle, PostgresThrottle):  # type: ignore[misc]  # as above
    """See rest_framework.throttling.ScopedRateThrottle, which finds the scope and then calls PostgresThrottle."""
