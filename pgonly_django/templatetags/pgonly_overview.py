"""The tag of the overview of the admin. Django imports this file with its first template, also where the admin is not
installed, or not imported yet: the tag itself imports what it needs."""

from __future__ import annotations

from typing import Any

from django import template
from django.template import RequestContext

register = template.Library()


@register.simple_tag(takes_context=True)
def overview_panels(context: RequestContext) -> list[Any]:
    """The panels of the overview that the person of this request may see, on the admin site that serves it."""
    from django.contrib import admin

    from pgonly_django.admin.overview.overview import Overview, shown
    from pgonly_django.admin.overview.panels import PANELS

    request: Any = context.request  # with current_app: the site has set it
    sites = {site.name: site for site in admin.sites.all_sites}
    return shown(Overview(request, sites.get(request.current_app, admin.site)), PANELS)
