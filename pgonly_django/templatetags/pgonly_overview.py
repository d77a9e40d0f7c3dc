"""For the templates of our pages in the admin."""

from __future__ import annotations

from typing import Any

from django import template
from django.contrib import admin
from django.template import RequestContext

from pgonly_django.admin.overview.overview import Overview, Shown, shown
from pgonly_django.admin.overview.panels import PANELS

register = template.Library()


@register.simple_tag(takes_context=True)
def overview_panels(context: RequestContext) -> list[Shown]:
    """The panels of the overview that the person of this request may see, on the admin site that serves it."""
    request = context["request"]
    return shown(Overview(request, site_of(request.current_app)), PANELS)


def site_of(name: Any) -> admin.AdminSite:
    sites = {site.name: site for site in admin.sites.all_sites}
    return sites.get(name, admin.site)
