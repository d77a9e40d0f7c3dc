"""What the tests of your project use: see docs/testing.md.

The names below are imported on first use. Nothing of `django.test` is imported before that: this package may be
imported anywhere.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgonly_django.testing.draining import adrain, drain

__all__ = ["adrain", "drain"]

_MODULES = {"adrain": "draining", "drain": "draining"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
