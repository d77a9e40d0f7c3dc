"""Throttles for Django Ninja, with the names and the settings of its own."""

from __future__ import annotations

from ninja import throttling

from pgonly_django.throttling.counted import CountedThrottle


class PostgresThrottle(CountedThrottle, throttling.SimpleRateThrottle):  # type: ignore[misc]  # Any where ninja is not installed
    """Takes the place of SimpleRateThrottle. Subclasses have get_cache_key(), and `scope` or a rate is given. It also
    blocks in async operations, as Ninja's own do, for one statement.
    """


class AnonRateThrottle(PostgresThrottle, throttling.AnonRateThrottle):  # type: ignore[misc]  # as above
    """See ninja.throttling.AnonRateThrottle."""


class AuthRateThrottle(PostgresThrottle, throttling.AuthRateThrottle):  # type: ignore[misc]  # as above
    """See ninja.throttling.AuthRateThrottle."""


class UserRateThrottle(PostgresThrottle, throttling.UserRateThrottle):  # type: ignore[misc]  # as above
    """See ninja.throttling.UserRateThrottle."""
