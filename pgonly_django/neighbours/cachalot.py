"""django-cachalot caches what the ORM reads until the ORM writes to the same table. Workers, the cache and sessions
write past the ORM, so a job would look as it did when it was read first. It is told to leave our tables alone.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.apps import apps
from django.core import checks

from pgonly_django.tables import TABLES, table

SETTING = "CACHALOT_UNCACHABLE_TABLES"  # the one that also wins over CACHALOT_ONLY_CACHABLE_TABLES
OURS = frozenset({*TABLES, *map(table, TABLES)})


def leave_our_tables_alone() -> None:
    """Whenever cachalot reads its settings, also in reload(), our tables join those that it does not cache."""
    if not apps.is_installed("cachalot"):
        return
    # Where a later version has none of this, the check says so.
    with suppress(ImportError, AttributeError, KeyError, TypeError):
        from cachalot.settings import Settings, cachalot_settings

        convert = Settings.converters[SETTING]
        Settings.converters[SETTING] = lambda value: convert(value) | OURS
        if cachalot_settings.patched:  # its ready() ran before ours
            setattr(cachalot_settings, SETTING, getattr(cachalot_settings, SETTING) | OURS)


def check_cachalot(**_: Any) -> list[checks.CheckMessage]:
    """E070: cachalot would cache our tables."""
    if not apps.is_installed("cachalot"):
        return []
    from cachalot.utils import is_cachable

    if not any(map(is_cachable, OURS)):
        return []
    message = "django-cachalot caches the tables of pgonly_django, whose rows change without the ORM."
    hint = 'Add "pgonly_django" to CACHALOT_UNCACHABLE_APPS. See docs/reference/neighbours.md.'
    return [checks.Error(message, hint=hint, id="pgonly_django.E070")]
