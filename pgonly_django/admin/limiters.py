"""Limiters in the admin: the list with what is in use, and the page of one with its holders and waiters."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.base import Links
from pgonly_django.admin.declared import RESET, DeclaredAdmin, ModelForm, origin_badge
from pgonly_django.admin.verbs import Verb
from pgonly_django.conf import settings
from pgonly_django.limits.declarations import LIMITER_KEYS, what_is_wrong
from pgonly_django.models import Job, Limiter, LimiterSlot, LimiterWaiter
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.monitoring.limits import HELD, LIMITER_USE, LIVE_WAITERS

SHOWN = 100
_JOB = re.compile(r"job ([0-9a-f-]{36}) ")


def _cool_down(minutes: int, label: Promise | str) -> Verb:
    return Verb(
        name=f"cool_down_{minutes}",
        method=lambda _request, limiters: limiters.cool_down(timedelta(minutes=minutes)),
        label=label,
        hint=gettext_lazy("No caller gets in until then, and no job of a queue that is tied to it starts."),
        logged=label,
    )


def cools_down(limiter: Any) -> bool:
    return limiter.blocked_until is not None and limiter.blocked_until > limiter.now


COOL_DOWN = _cool_down(1, gettext_lazy("Cool down for 1 min"))
COOL_DOWN_LONG = _cool_down(15, gettext_lazy("Cool down for 15 min"))
END_COOL_DOWN = Verb(
    name="end_cool_down",
    label=gettext_lazy("End the cool-down"),
    hint=gettext_lazy("Waiting callers get in, as far as there is room."),
    logged=gettext_lazy("Cool-down ended."),
    allowed=Q(blocked_until__gt=ClockTimestamp()),
    allows=cools_down,
)


@admin.display(description=gettext_lazy("state"))
def state_badge(limiter: Any) -> SafeString:
    if cools_down(limiter):
        left = formats.whole(limiter.blocked_until - limiter.now)
        title = formats.exact_time(limiter.blocked_until)
        return formats.badge("paused", _("Cools down for %s") % left, title)
    if limiter.waiters:
        return formats.badge("running", _("Others wait"))
    return formats.badge("live", _("Open"))


@admin.display(description=gettext_lazy("name"))
def name(limiter: Any) -> SafeString:
    return formats.named(limiter.name, origin_badge(limiter))


@admin.display(description=gettext_lazy("in use"))
def in_use(limiter: Any) -> SafeString | str:
    if limiter.concurrent is None:
        return _("no limit")
    text = _("%(held)d of %(all)d") % {"held": limiter.held, "all": limiter.concurrent}
    return formats.used(limiter.held, limiter.concurrent, text)


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
    """Shows the limit, and below it how far the bucket is overdrawn: as limits/limiter_statements.py counts it."""
    if limit is None:
        return _("no limit")
    text, below = f"{limit:,g}" if limit < 1 else f"{limit:,.0f}", ""
    if level is not None and limiter.refilled_at is not None:
        elapsed = (limiter.now - limiter.refilled_at).total_seconds()
        left = level + limit / 60 * max(elapsed, 0)
        if left < 0:
            wait = formats.duration(-left * 60 // limit)
            below = _("%(debt)s too many: closed for %(wait)s") % {"debt": f"{-left:,.0f}", "wait": wait}
    return format_html("{}{}", text, formats.second(below))


class LimiterForm(ModelForm):
    class Meta:
        model = Limiter
        fields = ("name", *LIMITER_KEYS)
        labels = {
            "concurrent": gettext_lazy("At a time"),
            "requests_per_minute": gettext_lazy("Requests per minute"),
            "tokens_per_minute": gettext_lazy("Tokens per minute"),
        }
        help_texts = dict.fromkeys(LIMITER_KEYS, gettext_lazy("Empty: no limit."))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Shows whole numbers without ".0"."""
        super().__init__(*args, **kwargs)
        for key, value in self.initial.items():
            if isinstance(value, float) and value.is_integer():
                self.initial[key] = int(value)

    def clean(self) -> dict[str, Any]:
        """Applies the same rules as PGONLY["LIMITERS"]."""
        values: dict[str, Any] = super().clean() or self.cleaned_data
        for key in LIMITER_KEYS:
            if key not in self.errors and (reason := what_is_wrong(key, values.get(key))):
                self.add_error(key, _("It must be %s.") % reason)
        return values


@admin.register(Limiter)
class LimiterAdmin(DeclaredAdmin):
    form = LimiterForm
    annotations = LIMITER_USE
    list_display = (state_badge, name, in_use, waiting, requests, tokens)
    list_display_links = (state_badge, name)
    verbs = (COOL_DOWN, COOL_DOWN_LONG, END_COOL_DOWN, RESET)
    actions = tuple(verb.as_action("limiters") for verb in verbs)
    fields = ("name", *LIMITER_KEYS)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Allows it one by one, and only for limiters that the settings do not declare: those would come back with
        their next use."""
        may_go = obj is not None and obj.name not in settings().limiters
        return may_go and super().has_delete_permission(request, obj)

    def delete_model(self, request: HttpRequest, obj: Limiter) -> None:
        for model in (LimiterSlot, LimiterWaiter):
            model.objects.filter(limiter=obj.name).delete()
        super().delete_model(request, obj)

    def page_of(self, request: HttpRequest, limiter: Any) -> dict[str, Any]:
        links = self.links(request)
        held = HELD.filter(limiter=limiter.name).order_by("taken_at")
        waiters = LIVE_WAITERS.filter(limiter=limiter.name).order_by("ticket")
        return {
            "state_badge": state_badge(limiter),
            "in_use": in_use(limiter),
            "requests": requests(limiter),
            "tokens": tokens(limiter),
            "held": [(row, _job_page(row.who, links)) for row in held[:SHOWN]],
            "waiters": [(row, _job_page(row.who, links)) for row in waiters[:SHOWN]],
        }


def _job_page(who: str, links: Links) -> str:
    job = _JOB.match(who)
    return links.to_page(Job, job[1]) if job else ""
