from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin.base import delete_selected
from pgonly_django.admin.cache import cells
from pgonly_django.admin.cache.filters import CacheFilter, StateFilter
from pgonly_django.admin.verbs import VerbAdmin, log_once
from pgonly_django.cache import PostgresCache, deletion
from pgonly_django.cache.backend import our_caches
from pgonly_django.database.operation import run
from pgonly_django.exceptions import CacheError
from pgonly_django.models import CacheEntry, DurableCacheEntry
from pgonly_django.monitoring.storage import caches
from pgonly_django.tables import name_of


@admin.register(CacheEntry, DurableCacheEntry)
class EntryAdmin(VerbAdmin):
    refresh_seconds = None  # a list of keys is searched, not watched
    list_display = (cells.name, cells.cache, cells.kind, cells.size, cells.expires, cells.tag_names)
    list_filter = (CacheFilter, StateFilter)
    search_fields = ("key",)
    search_help_text = gettext_lazy("The beginning of a key.")
    ordering = ("key",)
    fields: ClassVar[Any] = (
        cells.cache, cells.kind, cells.size, cells.expires, "expires_at", cells.tag_names, cells.content,
    )  # fmt: skip
    readonly_fields = fields
    actions = (delete_selected,)
    change_list_template = "admin/pgonly_django/cacheentry/change_list.html"

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Only the filters above: one on `value` would tell what the pages do not show."""
        return lookup in (CacheFilter.parameter_name, StateFilter.parameter_name)

    def get_queryset(self, request: HttpRequest) -> Any:
        """From the database of this table's caches."""
        alias = next((cache.store.pool.alias for cache in self.caches().values()), "default")
        return self.model.objects.using(alias).with_size()

    def caches(self) -> dict[str, PostgresCache]:
        """The caches whose entries are in this table, by alias."""
        durable = self.model is DurableCacheEntry
        return {alias: cache for alias, cache in our_caches().items() if cache.store.durable == durable}

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Any:
        """By the beginning of the key as the caller wrote it, or as Django made it: each a range of the primary key."""
        if not search_term:
            return queryset, False
        found = Q(key__startswith=search_term)
        for cache in our_caches().values():
            for start in (search_term, cache.make_key(search_term)):
                first = cache.store.namespace + start
                found |= Q(key__gte=first, key__lt=f"{first}\U0010ffff")
        return queryset.filter(found), False

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("numbers/", view(self.numbers_view), name=self.url_name("numbers")),
            path("clear/<path:alias>/", view(self.clear_view), name=self.url_name("clear")),
            *super().get_urls(),
        ]

    def page_of(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return {"heading": row.name}

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return super().changelist_view(request, {"numbers_url": self._numbers_url, **(extra_context or {})})

    def numbers_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        admins = self._admins_to_view(request)
        rows = [
            {"cache": each, "clear_url": admins[each.table].clear_url(request), **cells.numbers(each)}
            for each in caches()
            if each.table in admins
        ]
        return self._page(request, "numbers.html", _("Caches"), rows=rows)

    def _admins_to_view(self, request: HttpRequest) -> dict[str, EntryAdmin]:
        """By table: the admins of this kind on this site whose entries this person may view."""
        site, models = self.admin_site, self.opts.app_config.get_models()
        admins = [site.get_model_admin(model) for model in models if site.is_registered(model)]
        entry_admins = [each for each in admins if isinstance(each, EntryAdmin)]
        return {
            name_of(each.opts.db_table): each for each in entry_admins if each.has_view_permission(request)
        }

    def clear_url(self, request: HttpRequest) -> str:
        """The name of the page that clears a cache of this table; "" for a person who may not."""
        return f"admin:{self.url_name('clear')}" if self.has_delete_permission(request) else ""

    def clear_view(self, request: HttpRequest, alias: str) -> HttpResponse:
        if not self.has_delete_permission(request):
            raise PermissionDenied
        cache = self.caches().get(alias)
        if cache is None:
            raise Http404
        if request.method != "POST":
            title = _("Clear the cache %s?") % alias
            return self._page(request, "clear.html", title, alias=alias)
        try:
            run(deletion.clear(cache.store))  # not cache.clear(), which only logs that it failed
        except CacheError as error:
            problem = {"alias": alias, "error": error}
            messages.error(request, _("The cache '%(alias)s' was not cleared: %(error)s") % problem)
        else:
            log_once(request.user.pk, self.model, f"the cache {alias!r}", _("Cleared."))
            messages.success(request, _("The cache '%s' was cleared.") % alias)
        return HttpResponseRedirect(reverse(self._numbers_url, current_app=self.admin_site.name))

    @property
    def _numbers_url(self) -> str:
        return f"admin:{self.url_name('numbers')}"

    def _page(
        self, request: HttpRequest, template: str, title: str | Promise, **context: Any
    ) -> HttpResponse:
        context |= self.admin_site.each_context(request)
        context |= {"title": title, "opts": self.opts, "numbers_url": self._numbers_url}
        return TemplateResponse(request, f"admin/pgonly_django/cacheentry/{template}", context)
