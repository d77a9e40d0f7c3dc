"""System checks of the sessions: ids E201-E299 and W201-W299."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.urls import reverse

from pgonly_django.conf import settings
from pgonly_django.database.connect import check_vendor
from pgonly_django.models import Session
from pgonly_django.sessions.codec import REMEDY

OUR_ENGINE = "pgonly_django.sessions"
OUR_MIDDLEWARE = "pgonly_django.middleware.SessionMiddleware"
DJANGOS_MIDDLEWARE = "django.contrib.sessions.middleware.SessionMiddleware"
PUT_OURS = f"Put {OUR_MIDDLEWARE} in the place of Django's."
DOCS = "docs/how-to/sessions.md#checks"


def check_sessions(**_: object) -> list[checks.CheckMessage]:
    """E201 to E205, W201 to W204: see docs/how-to/sessions.md."""
    try:
        settings()
    except ImproperlyConfigured:
        return []  # E001 says so
    found = [*_database(), *_previous_engine(), *_middleware()]
    if settings().session_encrypt_data and find_spec("cryptography") is None:
        message = 'PGONLY["SESSION_ENCRYPT_DATA"] is set, but the package cryptography is not installed.'
        found.append(_error(message, REMEDY, 205))
    return found


def _database() -> list[checks.CheckMessage]:
    alias = router.db_for_write(Session)
    if not _is_ours():
        return []
    instead = f"route the model pgonly_django.Session to one. See {DOCS}"
    if errors := check_vendor(alias, "Sessions are kept in the database", instead, "pgonly_django.E201"):
        return errors
    if not connections[alias].settings_dict["AUTOCOMMIT"]:
        message = (
            f"Sessions are kept in {alias!r}, which has AUTOCOMMIT = False: no login would be committed."
        )
        return [_error(message, "Remove AUTOCOMMIT from it, and use atomic() in views.", 204)]
    return []


def _previous_engine() -> list[checks.CheckMessage]:
    engine = settings().session_previous_engine
    if not engine:
        return []
    setting = f'PGONLY["SESSION_PREVIOUS_ENGINE"] is {engine!r}, '
    hint = "Name the module that SESSION_ENGINE named before, or remove the setting."
    if engine == OUR_ENGINE:
        return [_error(f"{setting}which is this engine itself.", hint, 202)]
    try:
        store = import_module(engine).SessionStore
        if hasattr(store, "get_model_class"):
            store.get_model_class()
    except (ImportError, AttributeError) as error:
        return [_error(f"{setting}which is not a session engine: {error}.", hint, 202)]
    except RuntimeError:  # the model of an app that is not installed
        hint = 'Keep "django.contrib.sessions" in INSTALLED_APPS until the setting is removed.'
        return [_error(f"{setting}whose app is not in INSTALLED_APPS.", hint, 202)]
    if not _is_ours():
        return [
            _warning(
                f"{setting}which has no effect with another SESSION_ENGINE than {OUR_ENGINE}.", hint, 202
            )
        ]
    return []


def _middleware() -> list[checks.CheckMessage]:
    used = set(django_settings.MIDDLEWARE)
    if {OUR_MIDDLEWARE, DJANGOS_MIDDLEWARE} <= used:
        hint = f"Remove {DJANGOS_MIDDLEWARE}: the other one extends it."
        return [_error("MIDDLEWARE names two session middlewares.", hint, 203)]
    if OUR_MIDDLEWARE in used and not _is_ours():
        message = f"{OUR_MIDDLEWARE} has no effect with another SESSION_ENGINE than {OUR_ENGINE}."
        return [_warning(message, f'Set SESSION_ENGINE = "{OUR_ENGINE}", or use Django\'s middleware.', 201)]
    if settings().session_trusted_proxies and OUR_MIDDLEWARE not in used:
        message = 'PGONLY["SESSION_TRUSTED_PROXIES"] has no effect without our middleware.'
        return [_warning(message, PUT_OURS, 203)]
    if DJANGOS_MIDDLEWARE in used and _is_ours() and _has_devices_page():
        message = (
            "The devices page names no browser, address or time: Django's session middleware notes none."
        )
        return [_warning(message, PUT_OURS, 204)]
    return []


def _has_devices_page() -> bool:
    try:
        return bool(reverse("pgonly_sessions:devices"))
    except Exception:  # noqa: BLE001 - of the project's URLs: Django's own check tells of them
        return False


def _is_ours() -> bool:
    return bool(django_settings.SESSION_ENGINE == OUR_ENGINE)


def _error(message: str, hint: str, number: int) -> checks.Error:
    return checks.Error(message, hint=f"{hint} See {DOCS}.", id=f"pgonly_django.E{number}")


def _warning(message: str, hint: str, number: int) -> checks.Warning:
    return checks.Warning(message, hint=f"{hint} See {DOCS}.", id=f"pgonly_django.W{number}")
