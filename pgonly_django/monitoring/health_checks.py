"""Checks for django-health-check, version 3 and 4, which is optional: the extra `health`.

Each takes 5 s at most where the database does not answer, and has no connection left open.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import psycopg
from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.exceptions import ImproperlyConfigured
from django.db import Error
from django.utils.connection import ConnectionDoesNotExist

from pgonly_django.database.listener import seconds_until_heard
from pgonly_django.database.on_django import time_limit
from pgonly_django.monitoring.conditions import NO_WORKER, NOTIFY_LOST, QUEUE_LATE
from pgonly_django.monitoring.in_time import own_connections
from pgonly_django.monitoring.workers import worker_totals
from pgonly_django.queue.health import oldest_waiting
from pgonly_django.tasks.backend import job_databases

try:
    from health_check.exceptions import ServiceUnavailable

    try:
        from health_check.base import HealthCheck  # version 4 calls run()
    except ImportError:
        from health_check.backends import HealthCheck  # version 3 calls check_status()
except ImportError as error:
    raise ImproperlyConfigured(
        "The health checks of pgonly_django need django-health-check: pip install django-health-check."
    ) from error

logger = logging.getLogger("pgonly_django.monitoring")
STATEMENT_LIMIT = timedelta(seconds=2)


@dataclass
class _Check(HealthCheck):  # type: ignore[misc] # the package has no types
    """The base of the checks. Their messages go to all who can read the page, so PostgreSQL's own stay in the log."""

    def look(self) -> None:
        """Checks. Raises ServiceUnavailable, and what the database raises."""
        raise NotImplementedError

    def run(self) -> None:
        try:
            with own_connections():
                self.look()
        except (ConnectionDoesNotExist, ImproperlyConfigured, InvalidCacheBackendError) as error:
            raise ServiceUnavailable(str(error)) from error
        except (Error, psycopg.Error) as error:
            raise self.not_asked("PostgreSQL", error) from error

    def check_status(self) -> None:
        """Does run(), under the name that version 3 has for it."""
        self.run()

    def not_asked(self, what: str, error: Exception) -> ServiceUnavailable:
        logger.warning("%r could not look: %s", self, " ".join(str(error).split()))
        return ServiceUnavailable(f"{what} does not answer; the log says why")


@contextmanager
def _limited(database: str | None) -> Iterator[str]:
    """Yields the alias of the jobs, on which a statement inside may take STATEMENT_LIMIT."""
    alias = database or job_databases()[0]
    with time_limit(alias, STATEMENT_LIMIT):
        yield alias


@dataclass
class WorkersAlive(_Check):
    """Checks that at least `min_workers` live workers serve one of the `queues`; without `queues`, any."""

    queues: tuple[str, ...] = ()
    min_workers: int = int(NO_WORKER.limit)
    database: str | None = None

    def look(self) -> None:
        with _limited(self.database) as alias:
            found = worker_totals(alias, self.queues)
        if found.live < self.min_workers:
            silent = f", {found.silent} silent" if found.silent else ""
            raise ServiceUnavailable(
                f"{found.live} live workers{silent}; at least {self.min_workers} are wanted"
            )


@dataclass
class QueueLatency(_Check):
    """Checks that no job has waited for longer than `max_seconds`: of the `queues`, or of all that are not paused."""

    max_seconds: float = QUEUE_LATE.limit
    queues: tuple[str, ...] = ()
    database: str | None = None

    def look(self) -> None:
        with _limited(self.database) as alias:
            oldest = oldest_waiting(alias, self.queues)
        if oldest is not None and oldest.seconds > self.max_seconds:
            waited = f"A job of the queue {oldest.queue} has waited for {oldest.seconds:.0f} s"
            raise ServiceUnavailable(f"{waited}; at most {self.max_seconds:g} s are wanted")


@dataclass
class CacheRoundTrip(_Check):
    """Checks that a value set in the cache `alias` can be read, and does not exist after it is deleted."""

    alias: str = "default"

    def look(self) -> None:
        cache, key, value = caches[self.alias], f"pgonly-health-{secrets.token_hex(8)}", secrets.token_hex(8)
        try:
            cache.set(key, value, timeout=60)
            is_there = cache.get(key) == value
            is_gone = bool(cache.delete(key)) and cache.get(key) is None
        except Exception as error:  # any backend has its own kind of error
            raise self.not_asked(f"The cache {self.alias}", error) from error
        if not is_there:
            raise ServiceUnavailable(f"The cache {self.alias} does not return what was set")
        if not is_gone:
            raise ServiceUnavailable(f"The cache {self.alias} does not delete")


@dataclass
class NotifyArrives(_Check):
    """Checks that a NOTIFY arrives on the connection on which workers LISTEN. Without it they find jobs by polling."""

    database: str | None = None
    max_seconds: float = field(default=NOTIFY_LOST.limit, repr=False)

    def look(self) -> None:
        if seconds_until_heard(self.database or job_databases()[0], self.max_seconds) is None:
            raise ServiceUnavailable(
                f'No NOTIFY arrived within {self.max_seconds:g} s: set PGONLY["LISTEN_DATABASE"] past the pooler'
            )
