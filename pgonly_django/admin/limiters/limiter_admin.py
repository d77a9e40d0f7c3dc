from __future__ import annotations

import re
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.declared import RESET, DeclaredAdmin
from pgonly_django.admin.limiters import cells
from pgonly_django.admin.limiters.verbs import COOL_DOWN, COOL_DOWN_LONG, END_COOL_DOWN
from pgonly_django.admin.links import Links
from pgonly_django.conf import settings
from pgonly_django.limits.declarations import KEYS, what_is_wrong
from pgonly_django.models import Job, Limiter, LimiterSlot, LimiterWaiter
from pgonly_django.monitoring.limits import HELD, IN_USE, LIVE_WAITERS

SHOWN = 100
_JOB = re.compile(r"job ([0-9a-f-]{36}) ")


class LimiterForm(forms.ModelForm):  # type: ignore[type-arg] # generic in the stubs only
    class Meta:
        model = Limiter
        fields = ("name", *KEYS)
        labels = {
            "concurrent": _("At a time"),
            "requests_per_minute": _("Requests per minute"),
            "tokens_per_minute": _("Tokens per minute"),
        }
        help_texts = dict.fromkeys(KEYS, _("Empty: no limit."))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Whole numbers without ".0"."""
        super().__init__(*args, **kwargs)
        for key, value in self.initial.items():
            if isinstance(value, float) and value.is_integer():
                self.initial[key] = int(value)

    def clean(self) -> dict[str, Any]:
        """The same rules as for PGONLY["LIMITERS"]."""
        values: dict[str, Any] = super().clean() or self.cleaned_data
        for key in KEYS:
            if key not in self.errors and (reason := what_is_wrong(key, values.get(key))):
                self.add_error(key, _("It must be %s.") % reason)
        return values


@admin.register(Limiter)
class LimiterAdmin(DeclaredAdmin):
    form = LimiterForm
    list_display = (
        cells.state_badge, cells.name, cells.in_use, cells.waiting, cells.requests, cells.tokens,
    )  # fmt: skip
    list_display_links = (cells.state_badge, cells.name)
    verbs = (COOL_DOWN, COOL_DOWN_LONG, END_COOL_DOWN, RESET)
    actions = tuple(verb.as_action(f"{verb.name}_limiters") for verb in verbs)
    fields = ("name", *KEYS)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Limiter]:
        rows: QuerySet[Limiter] = super().get_queryset(request)
        return rows.annotate(**IN_USE)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """One by one, and only what the settings do not declare: that would come back with its next use."""
        may_go = obj is not None and obj.name not in settings().limiters
        return may_go and super().has_delete_permission(request, obj)

    def delete_model(self, request: HttpRequest, obj: Limiter) -> None:
        for model in (LimiterSlot, LimiterWaiter):
            model.objects.filter(limiter=obj.name).delete()
        super().delete_model(request, obj)

    def page_of(self, request: HttpRequest, limiter: Any) -> dict[str, Any]:
        links = Links(request, self.admin_site)
        held = HELD.filter(limiter=limiter.name).order_by("taken_at")
        waiters = LIVE_WAITERS.filter(limiter=limiter.name).order_by("ticket")
        return {
            "state_badge": cells.state_badge(limiter),
            "in_use": cells.in_use(limiter),
            "requests": cells.requests(limiter),
            "tokens": cells.tokens(limiter),
            "held": [(row, _job_page(row.who, links)) for row in held[:SHOWN]],
            "waiters": [(row, _job_page(row.who, links)) for row in waiters[:SHOWN]],
        }


def _job_page(who: str, links: Links) -> str:
    job = _JOB.match(who)
    return links.to_page(Job, job[1]) if job else ""
