"""Cache entries in the admin: listed, found by the beginning of a key, deleted. Numbers of each cache; clearing one."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.timesince import timeuntil
from django.utils.timezone import now

from pgonly_django.admin.base import ReadOnlyAdmin, delete_selected
from pgonly_django.admin.verbs import log_once
from pgonly_django.cache import PostgresCache, codec, deletion
from pgonly_django.cache.stats import figures, our_caches
from pgonly_django.database.operation import run
from pgonly_django.exceptions import CacheError
from pgonly_django.models import CacheEntry, DurableCacheEntry
from pgonly_django.tables import name_of

SHOWN_CHARACTERS = 100_000
_SERIALIZERS = {codec.PICKLE: "pickle", codec.JSON: "JSON", codec.OWN: "own serializer"}
_COMPRESSORS = {codec.ZLIB: ", zlib", codec.ZSTD: ", zstd"}


class CacheFilter(admin.SimpleListFilter):
    title = "cache"
    parameter_name = "cache"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        locations = {cache.store.location for cache in model_admin.caches().values()}
        return [(location, location) for location in sorted(locations)]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        location = self.value()
        return queryset.of(location) if location in dict(self.lookup_choices) else queryset


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("live", "live"), ("expired", "expired"), ("computing", "being computed")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "computing":
            return queryset.filter(claimed_until__gt=Now())
        if self.value() == "live":
            return queryset.live()
        return queryset.expired() if self.value() == "expired" else queryset


@admin.register(CacheEntry, DurableCacheEntry)
class EntryAdmin(ReadOnlyAdmin):
    refresh_seconds = None  # nobody watches keys
    list_display = ("name", "cache", "kind", "size", "expires", "tag_names")
    list_filter = (CacheFilter, StateFilter)
    search_fields = ("key",)
    search_help_text = "The beginning of a key."
    ordering = ("key",)
    fields = readonly_fields = (*list_display, "expires_at", "content")
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

    @admin.display(description="key", ordering="key")
    def name(self, entry: Any) -> str:
        return str(entry.name)

    @admin.display(description="cache")
    def cache(self, entry: Any) -> str:
        return str(entry.namespace)

    @admin.display(description="type")
    def kind(self, entry: Any) -> str:
        if entry.number is not None:
            return "integer"
        if entry.size is None:
            return "being computed"
        return _SERIALIZERS.get(entry.codec % 10, "unknown") + _COMPRESSORS.get(entry.codec // 10 * 10, "")

    @admin.display(description="bytes", ordering="size")
    def size(self, entry: Any) -> str:
        return "" if entry.size is None else f"{entry.size:,}"

    @admin.display(description="expires in", ordering="expires_at")
    def expires(self, entry: Any) -> str:
        if entry.expires_at is None:
            return "never"
        return timeuntil(entry.expires_at) if entry.expires_at > now() else "expired"

    @admin.display(description="tags")
    def tag_names(self, entry: Any) -> str:
        return ", ".join(tag.partition(":")[2] for tag in entry.tags or ())

    @admin.display(description="value")
    def content(self, entry: Any) -> str:
        """Numbers and JSON. Nothing is unpickled: a pickle can run any code."""
        if entry.number is not None:
            return str(entry.number)
        if entry.value is None or entry.codec % 10 != codec.JSON:
            return "Not shown."
        try:
            value = json.loads(codec.unpack(entry.codec, bytes(entry.value)))
            text = json.dumps(value, indent=2, ensure_ascii=False)
        except Exception as error:  # noqa: BLE001 - damaged, or of a compressor that is not installed here
            return f"Not shown: {error!r:.200}"
        return format_html("<pre>{}</pre>", text[:SHOWN_CHARACTERS])

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("numbers/", view(self.numbers_view), name=self.url_name("numbers")),
            path("clear/<path:alias>/", view(self.clear_view), name=self.url_name("clear")),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return super().changelist_view(request, {"numbers_url": self._numbers_url, **(extra_context or {})})

    def numbers_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        admins = self._admins_to_view(request)
        rows = [(each, admins[each.table].clear_url(request)) for each in figures(admins)]
        return self._page(request, "numbers.html", "Caches", rows=rows)

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
            return self._page(request, "clear.html", f"Clear the cache {alias}?", alias=alias)
        try:
            run(deletion.clear(cache.store))  # not cache.clear(), which only logs that it failed
        except CacheError as error:
            messages.error(request, f"The cache {alias!r} was not cleared: {error}")
        else:
            log_once(request.user.pk, self.model, f"the cache {alias!r}", "Cleared.")
            messages.success(request, f"The cache {alias!r} was cleared.")
        return HttpResponseRedirect(reverse(self._numbers_url, current_app=self.admin_site.name))

    @property
    def _numbers_url(self) -> str:
        return f"admin:{self.url_name('numbers')}"

    def _page(self, request: HttpRequest, template: str, title: str, **context: Any) -> HttpResponse:
        context |= self.admin_site.each_context(request)
        context |= {"title": title, "opts": self.opts, "numbers_url": self._numbers_url}
        return TemplateResponse(request, f"admin/pgonly_django/cacheentry/{template}", context)
