"""The entry of our app in the list of apps of every admin site: its models in the order of use, and on the first page,
beside the overview, how many things need attention.

Django sorts the models by their names and has no hook for another order: AdminSite.get_app_list() is wrapped. A site
that overrides it and calls super() has this order too."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.text import capfirst
from django.utils.translation import ngettext

from pgonly_django import models
from pgonly_django.admin.overview.panels import need_attention

ORDER: tuple[Any, ...] = (
    models.Overview, models.Job, models.JobBatch, models.Wait, models.Queue, models.Worker, models.Schedule,
    models.CostEntry, models.Budget, models.Limiter, models.CacheEntry, models.DurableCacheEntry, models.Session,
    models.Doctor,
)  # fmt: skip


def ordered(get_app_list: Callable[..., list[dict[str, Any]]]) -> Callable[..., list[dict[str, Any]]]:
    @wraps(get_app_list)
    def in_order(site: AdminSite, request: HttpRequest, *args: Any, **options: Any) -> list[dict[str, Any]]:
        apps = get_app_list(site, request, *args, **options)
        for app in apps:
            if app["app_label"] == models.Overview._meta.app_label:  # noqa: SLF001 - documented
                app["models"].sort(key=lambda entry: _place(entry.get("model")))
                _tell_attention(site, request, app["models"])
        return apps

    return in_order


def _place(model: Any) -> int:
    return ORDER.index(model) if model in ORDER else len(ORDER)


def _tell_attention(site: AdminSite, request: HttpRequest, entries: list[dict[str, Any]]) -> None:
    entry = next((each for each in entries if each.get("model") is models.Overview), None)
    if entry is None or not _is_first_page(site, request):
        return
    count = need_attention(request, site)
    if count:
        text = ngettext("%(name)s: %(count)d needs attention", "%(name)s: %(count)d need attention", count)
        entry["name"] = text % {"name": capfirst(entry["name"]), "count": count}


def _is_first_page(site: AdminSite, request: HttpRequest) -> bool:
    try:
        return request.path == reverse("admin:index", current_app=site.name)
    except NoReverseMatch:
        return False


setattr(AdminSite, "get_app_list", ordered(AdminSite.get_app_list))  # noqa: B010 - mypy takes no assignment to a method
