"""The tags of the templates of our pages in the admin. Django imports this file with its first template, also where the
admin is not installed, or not imported yet: the tags themselves import what they need."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from django import template
from django.template import RequestContext
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst

register = template.Library()

# As Django and the themes begin a cell of a list. What a cell holds is escaped, so none of it looks like this.
_CELL = re.compile(r'<t[dh] (?=class="(?:[^"]* )?field-([\w-]+))')


@register.filter
def labelled(html: str, changelist: Any) -> SafeString:
    """Returns the cells of a list with the names of their columns, which begin the lines of a card on a phone."""
    from django.contrib.admin.utils import label_for_field

    labels = {}
    for column in changelist.list_display:
        label = label_for_field(column, changelist.model, model_admin=changelist.model_admin)
        labels[column if isinstance(column, str) else column.__name__] = capfirst(str(label))

    def with_label(cell: re.Match[str]) -> str:
        label = labels.get(cell[1])
        return f'{cell[0]}data-label="{escape(label)}" ' if label else cell[0]

    return mark_safe(_CELL.sub(with_label, html))  # noqa: S308 - what was safe before, and an escaped label


@register.filter
def exact(moment: datetime | None) -> SafeString:
    """Returns a time as all our pages show it, such as 2026-11-30 05:58:11."""
    from pgonly_django.admin import formats

    return formats.exact(moment)


@register.simple_tag(takes_context=True)
def overview_panels(context: RequestContext) -> dict[str, Any]:
    """Returns the panels of the overview that the person of this request may see, on the admin site that serves it; and
    those behind `more_url`."""
    from pgonly_django.admin.overview.overview import OverviewPage, shown
    from pgonly_django.admin.overview.panels import FIRST, MORE
    from pgonly_django.models import Overview

    overview = OverviewPage(context.request, _site_of(context))
    more_url = overview.address(Overview, "more") if overview.may_view(Overview) else ""
    more = [panel for panel in MORE if any(map(overview.may_view, panel.models))]
    if not more_url:  # this site has no page for them
        return {"panels": shown(overview, (*FIRST, *more)), "more": [], "more_url": ""}
    return {"panels": shown(overview, FIRST), "more": more, "more_url": more_url}


def _site_of(context: RequestContext) -> Any:
    from django.contrib import admin

    request: Any = context.request  # with current_app: the site has set it
    sites = {site.name: site for site in admin.sites.all_sites}
    return sites.get(request.current_app, admin.site)
