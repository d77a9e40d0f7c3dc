"""What the throttles of both frameworks share: one statement a request, and what happens without a database."""

from __future__ import annotations

import logging
import threading
from typing import Any, Self

from django.core.exceptions import ImproperlyConfigured

from pgonly_django import events
from pgonly_django.cache.store import Store
from pgonly_django.cache.window import Admission, admit
from pgonly_django.database.operation import run
from pgonly_django.exceptions import CacheError

RETRY_SECONDS = 1.0  # what a request is told that was refused since the database is away


class Counted:
    """Beside the class of a framework, which makes the key and reads the rate.

    `cache` is that of the framework's class: any PostgresCache. `fail_open` says what a request gets while the
    database is away: True lets it through, False refuses it.
    """

    cache: Any
    fail_open = True
    _of_thread: threading.local

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Here, since ScopedRateThrottle of Django REST framework calls no other __init__()."""
        made = super().__new__(cls)
        made._of_thread = threading.local()
        return made

    @property
    def admission(self) -> Admission | None:
        """Of the last request of this thread: Django Ninja has one throttle for all requests of an operation."""
        return getattr(self._of_thread, "admission", None)

    def count(self, key: str, limit: int, seconds: float) -> bool:
        """Whether the request is admitted. A changed rate begins to count at 0."""
        store = self.store_or_none()
        if store is None:
            raise ImproperlyConfigured(f"{type(self).__name__} counts in a PostgresCache. {self.remedy()}")
        stored = self.cache.stored_key(f"{key}:{limit}/{seconds:g}", None)
        try:
            admission = run(admit(store, stored, limit, seconds))
        except CacheError as error:
            said = "let through" if self.fail_open else "refused"
            message = (
                f"A request was {said} uncounted, since its throttle did not reach the database: {error}"
            )
            events.emit("throttle.failed", message, level=logging.WARNING)
            admission = Admission(self.fail_open, 0.0 if self.fail_open else RETRY_SECONDS, 0)
        self._of_thread.admission = admission
        return admission.admitted

    def wait(self) -> float | None:
        """Seconds until another request may be admitted, which the framework sends as Retry-After."""
        return self.admission.wait_seconds if self.admission else None

    @classmethod
    def store_or_none(cls) -> Store | None:
        store = getattr(cls.cache, "store", None)
        return store if isinstance(store, Store) else None

    @classmethod
    def remedy(cls) -> str:
        name = cls.__name__
        return f'Make CACHES["default"] a PostgresCache, or set {name}.cache = caches["the alias of one"].'
