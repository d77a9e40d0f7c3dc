"""django-cacheops caches what the ORM reads of the models in CACHEOPS until the ORM writes to them."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured


def check_cacheops(**_: Any) -> list[checks.CheckMessage]:
    """W071: CACHEOPS covers models of ours, by "*.*" or by name."""
    if not apps.is_installed("cacheops"):
        return []
    from cacheops.conf import model_profile, settings

    try:
        models = apps.get_app_config("pgonly_django").get_models()
        profiles = {model.__name__: model_profile(model) for model in models}
    except ImproperlyConfigured:
        return []  # cacheops raises it wherever it is used
    cached = sorted(name for name, profile in profiles.items() if profile and profile["ops"])
    if not cached or not settings.CACHEOPS_ENABLED:
        return []
    message = f"CACHEOPS covers models whose rows change without the ORM: {', '.join(cached)}."
    hint = 'Write CACHEOPS = {"pgonly_django.*": None, ...}. See docs/reference/neighbours.md.'
    return [checks.Warning(message, hint=hint, id="pgonly_django.W071")]
