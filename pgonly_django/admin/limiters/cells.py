"""The cells of the list of limiters."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.declared import origin_badge
from pgonly_django.wording import duration

FOR_EVER = 1e9  # seconds


@admin.display(description=gettext_lazy("state"))
def state_badge(limiter: Any) -> SafeString:
    if limiter.blocked_until is not None and limiter.blocked_until > limiter.now:
        left = duration(limiter.blocked_until - limiter.now)
        title = formats.exact_time(limiter.blocked_until)
        return formats.badge("paused", _("Cools down for %s") % left, title)
    if limiter.waiters:
        return formats.badge("running", _("Others wait"))
    return formats.badge("live", _("Open"))


@admin.display(description=gettext_lazy("name"))
def name(limiter: Any) -> SafeString:
    return format_html('<span class="pgonly-name">{}</span> {}', limiter.name, origin_badge(limiter))


@admin.display(description=gettext_lazy("in use"))
def in_use(limiter: Any) -> SafeString | str:
    if limiter.concurrent is None:
        return _("no limit")
    bar = formats.progress_bar(limiter.held, limiter.concurrent)
    text = _("%(held)d of %(all)d") % {"held": limiter.held, "all": limiter.concurrent}
    return format_html('<span class="pgonly-of">{} {}</span>', bar, text)


@admin.display(description=gettext_lazy("waiting"))
def waiting(limiter: Any) -> str:
    return f"{limiter.waiters:,}" if limiter.waiters else "-"


@admin.display(description=gettext_lazy("requests per minute"))
def requests(limiter: Any) -> str:
    return _bucket(limiter, limiter.requests, limiter.requests_per_minute)


@admin.display(description=gettext_lazy("tokens per minute"))
def tokens(limiter: Any) -> str:
    return _bucket(limiter, limiter.tokens, limiter.tokens_per_minute)


def _bucket(limiter: Any, level: float | None, limit: float | None) -> str:
    """The limit, and below it how far the bucket is overdrawn: as limits/limiter_statements.py counts it."""
    if limit is None:
        return _("no limit")
    text, second = f"{limit:,g}" if limit < 1 else f"{limit:,.0f}", ""
    if level is not None and limiter.refilled_at is not None:
        elapsed = (limiter.now - limiter.refilled_at) / timedelta(seconds=1)
        left = level + limit / 60 * max(elapsed, 0)
        if left < 0:
            seconds = -left * 60 / limit
            wait = duration(timedelta(seconds=seconds if 0 <= seconds < FOR_EVER else FOR_EVER))
            second = _("%(debt)s too many: closed for %(wait)s") % {"debt": f"{-left:,.0f}", "wait": wait}
    return format_html('{}<span class="pgonly-second">{}</span>', text, second)
