"""Other packages that read or cache our tables: how they leave them alone, and checks.

django-cachalot and django-cacheops cache what the ORM reads until the ORM writes to the same table. Workers, the cache
and sessions write past the ORM, so a job would look as it did when it was first read.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.tables import TABLES, table

SETTING = "CACHALOT_UNCACHABLE_TABLES"  # the one that also wins over CACHALOT_ONLY_CACHABLE_TABLES
OUR_TABLES = frozenset({*TABLES, *map(table, TABLES)})
SESSION_ENGINE = "pgonly_django.sessions"


def leave_our_tables_alone() -> None:
    """Adds our tables to those that django-cachalot leaves alone, whenever it reads its settings."""
    if not apps.is_installed("cachalot"):
        return
    # Where a later version has none of this, the check says so.
    with suppress(ImportError, AttributeError, KeyError, TypeError):
        from cachalot.settings import Settings, cachalot_settings

        convert = Settings.converters[SETTING]
        Settings.converters[SETTING] = lambda value: convert(value) | OUR_TABLES
        if cachalot_settings.patched:  # its ready() ran before ours
            setattr(cachalot_settings, SETTING, getattr(cachalot_settings, SETTING) | OUR_TABLES)


def check_cachalot(**_: Any) -> list[checks.CheckMessage]:
    """E070: cachalot would cache our tables."""
    if not apps.is_installed("cachalot"):
        return []
    from cachalot.utils import is_cachable

    if not any(map(is_cachable, OUR_TABLES)):
        return []
    message = "django-cachalot caches the tables of pgonly_django, whose rows change without the ORM."
    hint = 'Add "pgonly_django" to CACHALOT_UNCACHABLE_APPS. See docs/reference/neighbours.md.'
    return [checks.Error(message, hint=hint, id="pgonly_django.E070")]


def check_cacheops(**_: Any) -> list[checks.CheckMessage]:
    """W071: CACHEOPS covers models of ours, by "*.*" or by name."""
    if not apps.is_installed("cacheops"):
        return []
    from cacheops.conf import model_profile
    from cacheops.conf import settings as cacheops_settings

    try:
        models = apps.get_app_config("pgonly_django").get_models()
        tables = [model for model in models if not model._meta.proxy]  # noqa: SLF001 - documented
        profiles = {model.__name__: model_profile(model) for model in tables}
    except ImproperlyConfigured:
        return []  # cacheops raises it wherever it is used
    cached = sorted(name for name, profile in profiles.items() if profile and profile["ops"])
    if not cached or not cacheops_settings.CACHEOPS_ENABLED:
        return []
    message = f"CACHEOPS covers models whose rows change without the ORM: {', '.join(cached)}."
    hint = 'Write CACHEOPS = {"pgonly_django.*": None, ...}. See docs/reference/neighbours.md.'
    return [checks.Warning(message, hint=hint, id="pgonly_django.W071")]


def check_usersessions(**_: Any) -> list[checks.CheckMessage]:
    """W072: allauth.usersessions stores in plain text the keys that our table has only as hashes."""
    if not apps.is_installed("allauth.usersessions") or settings.SESSION_ENGINE != SESSION_ENGINE:
        return []
    message = (
        "allauth.usersessions stores the keys of sessions as they are in the cookies: "
        "a leaked database logs in everyone who is in that table."
    )
    hint = (
        "The devices page of pgonly_django lists and ends sessions without storing keys "
        "(docs/how-to/sessions.md): remove allauth.usersessions, or silence this."
    )
    return [checks.Warning(message, hint=hint, id="pgonly_django.W072")]
