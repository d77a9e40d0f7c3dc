"""The session engine: SESSION_ENGINE = "pgonly_django.sessions"."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from pgonly_django.sessions.prune import prune_expired
    from pgonly_django.sessions.revoke import revoke_all, revoke_other_sessions
    from pgonly_django.sessions.store import SessionStore

__all__ = ["SessionStore", "prune_expired", "revoke_all", "revoke_other_sessions"]

# Imported on first use: settings may name this module before the models can be loaded.
_MODULES = {
    "SessionStore": "store",
    "prune_expired": "prune",
    "revoke_all": "revoke",
    "revoke_other_sessions": "revoke",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if apps.apps_ready and not apps.is_installed("pgonly_django"):
        raise ImproperlyConfigured('The sessions need "pgonly_django" in INSTALLED_APPS; then run migrate.')
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
