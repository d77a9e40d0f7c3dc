"""The tags of the overview of the admin. Django imports this file with its first template, also where the admin is not
installed, or not imported yet: the tags themselves import what they need."""

from __future__ import annotations

from typing import Any

from django import template
from django.template import RequestContext

register = template.Library()


@register.simple_tag(takes_context=True)
def overview_panels(context: RequestContext) -> list[Any]:
    """The panels of the overview that the person of this request may see, on the admin site that serves it."""
    from pgonly_django.admin.overview.overview import Overview, shown
    from pgonly_django.admin.overview.panels import PANELS

    return shown(Overview(context.request, _site_of(context)), PANELS)


@register.simple_tag(takes_context=True)
def doctor_url(context: RequestContext) -> str:
    """The address of the doctor's page; "" for a person who may not see it."""
    from pgonly_django.admin.doctor import url_of

    return url_of(context.request, _site_of(context))


def _site_of(context: RequestContext) -> Any:
    from django.contrib import admin

    request: Any = context.request  # with current_app: the site has set it
    sites = {site.name: site for site in admin.sites.all_sites}
    return sites.get(request.current_app, admin.site)
