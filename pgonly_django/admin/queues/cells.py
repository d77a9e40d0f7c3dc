"""The cells of the list of queues."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.declared import origin_badge
from pgonly_django.monitoring.queues import COUNTED_AT_MOST


@admin.display(description=gettext_lazy("state"))
def state_badge(queue: Any) -> SafeString:
    if queue.paused_at is not None:
        return formats.badge("paused", _("Paused"), formats.exact_time(queue.paused_at))
    if queue.blocked_until is not None:
        return formats.badge("paused", _("Cools down"), formats.exact_time(queue.blocked_until))
    if queue.waiting and queue.max_running is not None and queue.running >= queue.max_running:
        return formats.badge("running", _("Full"), _("The next job starts when another has ended."))
    if queue.waiting and queue.tokens is not None and queue.tokens < 1:
        return formats.badge("running", _("Waits for its rate"))
    return formats.badge("live", _("Open"))


@admin.display(description=gettext_lazy("name"))
def name(queue: Any) -> SafeString:
    """Nearly every queue has a row without being declared or edited."""
    is_limited = any((queue.max_running, queue.rate_count, queue.limiter))
    origin = origin_badge(queue) if is_limited or queue.edited_at else ""
    return format_html('<span class="pgonly-name">{}</span> {}', queue.name, origin)


@admin.display(description=gettext_lazy("waiting"))
def waiting(queue: Any) -> str:
    return _counted(queue.waiting)


@admin.display(description=gettext_lazy("running"))
def running(queue: Any) -> SafeString | str:
    if not queue.max_running:
        return _counted(queue.running)
    bar = formats.progress_bar(queue.running, queue.max_running)
    text = _("%(running)s of %(all)s") % {"running": _counted(queue.running), "all": f"{queue.max_running:,}"}
    return format_html('<span class="pgonly-of">{} {}</span>', bar, text)


@admin.display(description=gettext_lazy("rate"))
def rate(queue: Any) -> str:
    if queue.rate_count is None:
        return "-"
    facts = {"count": f"{queue.rate_count:,}", "seconds": f"{queue.rate_seconds:,g}"}
    return _("%(count)s per %(seconds)s s") % facts


@admin.display(description=gettext_lazy("limiter"))
def limiter(queue: Any) -> str:
    return queue.limiter or "-"


def _counted(count: int) -> str:
    return f"{COUNTED_AT_MOST:,}+" if count > COUNTED_AT_MOST else f"{count:,}"
