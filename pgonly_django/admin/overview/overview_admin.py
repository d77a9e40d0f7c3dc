"""The entry of the overview in the list of the app, and the button that marks failures as seen."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, reverse

from pgonly_django.admin.base import PageAdmin
from pgonly_django.admin.overview.overview import SEEN_AT
from pgonly_django.admin.overview.panels import PANELS
from pgonly_django.models import Overview

LAST_EPOCH = 1e10  # of the year 2286


@admin.register(Overview)
class OverviewAdmin(PageAdmin):
    def get_urls(self) -> list[URLPattern]:
        return [self.own_url("seen", "seen/", self.seen_view), *super().get_urls()]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Allows a person who sees one of its panels."""
        links = self.links(request)
        return any(links.may_view(model) for panel in PANELS for model in panel.models)

    def show(self, request: HttpRequest) -> HttpResponse:
        """Leads to the index of the app: the overview, which every site and theme has."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        app = {"app_label": self.opts.app_label}
        return HttpResponseRedirect(reverse("admin:app_list", kwargs=app, current_app=self.admin_site.name))

    def seen_view(self, request: HttpRequest) -> HttpResponse:
        """Marks the failures up to `newest_at`, an epoch, as seen in this session."""
        overview = self.show(request)
        with suppress(ValueError):
            newest_at = float(request.POST.get("newest_at", ""))
            if 0 < newest_at < LAST_EPOCH:
                request.session[SEEN_AT] = newest_at
        return overview
