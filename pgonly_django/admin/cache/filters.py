from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models.functions import Now
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _


class CacheFilter(admin.SimpleListFilter):
    title = _("cache")
    parameter_name = "cache"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        locations = {cache.store.location for cache in model_admin.caches().values()}
        return [(location, location) for location in sorted(locations)]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        location = self.value()
        return queryset.of(location) if location in dict(self.lookup_choices) else queryset


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("live", _("live")), ("expired", _("expired")), ("computing", _("being computed"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "computing":
            return queryset.filter(claimed_until__gt=Now())
        if self.value() == "live":
            return queryset.live()
        return queryset.expired() if self.value() == "expired" else queryset
