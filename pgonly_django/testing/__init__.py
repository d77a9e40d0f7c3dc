"""The helpers for the tests of your project: see docs/how-to/testing.md.

The names below are imported on first use. Nothing of `django.test` is imported before that: this package may be
imported anywhere.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgonly_django.testing.draining import adrain, drain
    from pgonly_django.testing.enqueued import (
        assert_enqueued,
        assert_enqueues,
        assert_not_enqueued,
        enqueued_jobs,
    )
    from pgonly_django.testing.fakes import fake_limits
    from pgonly_django.testing.inline_worker import DrainError
    from pgonly_django.testing.resumable import NotResumableError, NotTestableError, assert_resumable
    from pgonly_django.testing.travel import time_travel
    from pgonly_django.testing.waiting import assert_waiting_for

__all__ = [
    "DrainError",
    "NotResumableError",
    "NotTestableError",
    "adrain",
    "assert_enqueued",
    "assert_enqueues",
    "assert_not_enqueued",
    "assert_resumable",
    "assert_waiting_for",
    "drain",
    "enqueued_jobs",
    "fake_limits",
    "time_travel",
]

# No module has the name of a function in it: the import would put the module in the function's place.
_MODULES = {
    "draining": ("adrain", "drain"),
    "enqueued": ("assert_enqueued", "assert_enqueues", "assert_not_enqueued", "enqueued_jobs"),
    "fakes": ("fake_limits",),
    "inline_worker": ("DrainError",),
    "resumable": ("NotResumableError", "NotTestableError", "assert_resumable"),
    "travel": ("time_travel",),
    "waiting": ("assert_waiting_for",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
