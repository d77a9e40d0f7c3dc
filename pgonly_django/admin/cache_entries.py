"""Cache entries in the admin, found by the beginning of a key; the numbers of each cache, and clearing one."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat
from django.urls import URLPattern
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.base import Links, delete_selected
from pgonly_django.admin.verbs import VerbAdmin, log_once
from pgonly_django.cache import PostgresCache, deletion
from pgonly_django.cache.backend import our_caches
from pgonly_django.cache.entry import JSON, OWN, PICKLE, ZLIB, ZSTD, unpack
from pgonly_django.database.operation import run
from pgonly_django.exceptions import CacheError
from pgonly_django.models import CacheEntry, DurableCacheEntry
from pgonly_django.monitoring.storage import CacheFigures, caches

_SERIALIZERS = {PICKLE: "pickle", JSON: "JSON", OWN: gettext_lazy("own serializer")}
_COMPRESSORS = {ZLIB: ", zlib", ZSTD: ", zstd"}


@admin.display(description=gettext_lazy("key"), ordering="key")
def name(entry: Any) -> str:
    return str(entry.name)


@admin.display(description=gettext_lazy("cache"))
def cache(entry: Any) -> str:
    return str(entry.namespace)


@admin.display(description=gettext_lazy("type"))
def kind(entry: Any) -> str:
    if entry.number is not None:
        return _("integer")
    if entry.size is None:
        return _("being computed")
    serializer = _SERIALIZERS.get(entry.codec % 10, gettext_lazy("unknown"))
    return f"{serializer}{_COMPRESSORS.get(entry.codec // 10 * 10, '')}"


@admin.display(description=gettext_lazy("bytes"), ordering="size")
def size(entry: Any) -> str:
    return "-" if entry.size is None else f"{entry.size:,}"


@admin.display(description=gettext_lazy("expires"), ordering="expires_at")
def expires(entry: Any) -> str:
    return _("never") if entry.expires_at is None else formats.until(entry.expires_at, _("expired"))


@admin.display(description=gettext_lazy("tags"))
def tag_names(entry: Any) -> str:
    return ", ".join(tag.partition(":")[2] for tag in entry.tags or ()) or "-"


@admin.display(description=gettext_lazy("value"))
def content(entry: Any) -> str:
    """Shows numbers and JSON. Nothing is unpickled: a pickle can run any code."""
    if entry.number is not None:
        return str(entry.number)
    if entry.value is None or entry.codec % 10 != JSON:
        return _("Not shown: only numbers and JSON are. Unpickling a value can run any code.")
    try:
        value = json.loads(unpack(entry.codec, bytes(entry.value)))
    except Exception as error:  # noqa: BLE001 - damaged, or of a compressor that is not installed here
        return _("Not shown: %s") % f"{error!r:.200}"
    return formats.json_block(value)


def numbers_of_caches(links: Links, limit: timedelta | None = None) -> list[dict[str, Any]]:
    """Returns the cells of the caches whose entries the reader may view, for the page of all and for the overview, with
    the address of the page that clears each; "" where the reader may not."""
    rows = []
    for each in caches(limit):
        model = DurableCacheEntry if each.table.endswith("_durable") else CacheEntry
        if links.may_view(model):
            may_clear = links.site.get_model_admin(model).has_delete_permission(links.request)
            clear_url = links.address(model, "clear", each.alias) if may_clear else ""
            rows.append({"clear_url": clear_url, **_numbers(each)})
    return rows


def _numbers(cache: CacheFigures) -> dict[str, Any]:
    about = "~" if cache.is_estimate else ""
    of_bytes, of_entries = (cache.bytes, cache.max_bytes), (cache.entries, cache.max_entries)
    used, bound = of_bytes if cache.max_bytes else of_entries
    return {
        "cache": cache,
        "entries": _of(f"{about}{cache.entries:,}", f"{cache.max_entries:,}" if cache.max_entries else ""),
        "bytes": _of(
            f"{about}{filesizeformat(cache.bytes)}",
            filesizeformat(cache.max_bytes) if cache.max_bytes else "",
        ),
        "bar": formats.progress_bar(used, bound) if bound else "",
        "disk": filesizeformat(cache.table_bytes),
        "hit_rate": None if cache.hit_rate is None else f"{100 * cache.hit_rate:.1f} %",
    }


def _of(amount: str, bound: str) -> str:
    return _("%(amount)s of %(bound)s") % {"amount": amount, "bound": bound} if bound else amount


class CacheFilter(admin.SimpleListFilter):
    title = gettext_lazy("cache")
    parameter_name = "cache"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        locations = {cache.store.location for cache in model_admin.caches().values()}
        return [(location, location) for location in sorted(locations)]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        location = self.value()
        return queryset.of(location) if location in dict(self.lookup_choices) else queryset


class EntryStateFilter(admin.SimpleListFilter):
    title = gettext_lazy("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("live", _("Live")), ("expired", _("Expired")), ("computing", _("Being computed"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case "computing":
                return queryset.filter(claimed_until__gt=Now())
            case "live":
                return queryset.live()
            case "expired":
                return queryset.expired()
        return queryset


@admin.register(CacheEntry, DurableCacheEntry)
class EntryAdmin(VerbAdmin):
    refresh_seconds = None  # a list of keys is searched, not watched
    list_display = (name, cache, kind, size, expires, tag_names)
    list_filter = (CacheFilter, EntryStateFilter)
    search_fields = ("key",)
    search_help_text = gettext_lazy("The beginning of a key.")
    ordering = ("key",)
    fields: ClassVar[Any] = (cache, kind, size, expires, tag_names, content)
    readonly_fields = fields
    actions = (delete_selected,)
    change_list_template = "admin/pgonly_django/cacheentry/change_list.html"

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allows only the filters above: one on `value` would reveal what the pages do not show."""
        return lookup in (CacheFilter.parameter_name, EntryStateFilter.parameter_name)

    def get_queryset(self, request: HttpRequest) -> Any:
        alias = next((cache.store.pool.alias for cache in self.caches().values()), "default")
        return self.model.objects.using(alias).with_size()

    def caches(self) -> dict[str, PostgresCache]:
        """Returns the caches whose entries are in this table, by alias."""
        durable = self.model is DurableCacheEntry
        return {alias: cache for alias, cache in our_caches().items() if cache.store.durable == durable}

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Any:
        """Searches by the beginning of the key as the caller wrote it, or as Django made it: each a range of the
        key."""
        if not search_term:
            return queryset, False
        found = Q(key__startswith=search_term)
        for cache in our_caches().values():
            for start in (search_term, cache.make_key(search_term)):
                first = cache.store.namespace + start
                found |= Q(key__gte=first, key__lt=f"{first}\U0010ffff")
        return queryset.filter(found), False

    def get_urls(self) -> list[URLPattern]:
        return [
            self.own_url("numbers", "numbers/", self.numbers_view),
            self.own_url("clear", "clear/<path:alias>/", self.clear_view),
            *super().get_urls(),
        ]

    def page_of(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return {"heading": row.name}

    def numbers_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        rows = numbers_of_caches(self.links(request))
        shown = {"rows": rows, "has_estimates": any(row["cache"].is_estimate for row in rows)}
        return self.page(request, "cacheentry/numbers.html", _("Caches"), **shown)

    def clear_view(self, request: HttpRequest, alias: str) -> HttpResponse:
        if not self.has_delete_permission(request):
            raise PermissionDenied
        cache = self.caches().get(alias)
        if cache is None:
            raise Http404
        if request.method != "POST":
            title = _("Clear the cache %s?") % alias
            return self.page(request, "cacheentry/clear.html", title, alias=alias)
        try:
            run(deletion.clear(cache.store))  # not cache.clear(), which only logs that it failed
        except CacheError as error:
            problem = {"alias": alias, "error": error}
            messages.error(request, _("The cache '%(alias)s' was not cleared: %(error)s") % problem)
        else:
            log_once(request.user.pk, self.model, f"the cache {alias!r}", _("Cleared."))
            messages.success(request, _("The cache '%s' was cleared.") % alias)
        return HttpResponseRedirect(self.links(request).address(self.model, "numbers"))
