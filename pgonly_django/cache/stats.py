"""Counts what the caches of settings.CACHES hold, for the command."""

from dataclasses import dataclass
from typing import Any, cast

from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.db import Error
from django.db.models import BigIntegerField, Count, Q, Sum
from django.db.models.expressions import RawSQL
from django.db.models.functions import Coalesce, Now
from django.utils.module_loading import import_string

from pgonly_django.cache.backend import PostgresCache
from pgonly_django.cache.entry import SIZE, TABLES
from pgonly_django.cache.eviction import cache_name
from pgonly_django.models import CacheEntry, CacheUsage, DurableCacheEntry


@dataclass(frozen=True, slots=True)
class Figures:
    alias: str
    location: str
    table: str
    entries: int
    bytes: int
    expired: int
    hits: int
    misses: int
    problem: str = ""  # why there are no numbers

    @property
    def hit_rate(self) -> float | None:
        """Hits of all reads that were flushed so far, 0 to 1; None before the first."""
        reads = self.hits + self.misses
        return self.hits / reads if reads else None


def our_caches() -> dict[str, PostgresCache]:
    """The caches of settings.CACHES that are ours, by alias, but not those that are misconfigured."""
    ours = {alias: cast("PostgresCache", caches[alias]) for alias in our_settings()}
    return {alias: cache for alias, cache in ours.items() if cache.is_configured}


def our_settings() -> dict[str, dict[str, Any]]:
    """The entries of settings.CACHES that name this backend or one made from it, by alias."""
    return {alias: cache for alias, cache in settings.CACHES.items() if _is_ours(cache)}


def _is_ours(cache: dict[str, Any]) -> bool:
    try:
        backend = import_string(cache["BACKEND"])
    except ImportError:
        return False
    return issubclass(backend, PostgresCache)


def figures() -> list[Figures]:
    """Of each cache. Walks over all entries: monitoring/caches.py does not.

    Where the database of one does not answer, it has a `problem` and no numbers.
    """
    found = []
    for alias, cache in our_caches().items():
        try:
            found.append(_figures(alias, cache))
        except (Error, ImproperlyConfigured) as error:
            problem, table = " ".join(str(error).split()), TABLES[cache.store.durable]
            found.append(Figures(alias, cache.store.location, table, 0, 0, 0, 0, 0, problem))
    return found


def _figures(alias: str, cache: PostgresCache) -> Figures:
    store = cache.store
    model = DurableCacheEntry if store.durable else CacheEntry
    size = RawSQL(SIZE, (), BigIntegerField())  # noqa: S611 - a constant
    expired = Count("pk", filter=Q(expires_at__lte=Now()))
    rows = model.objects.using(store.pool.alias).of(store.location)
    counted = rows.aggregate(entries=Count("pk"), bytes=Coalesce(Sum(size), 0), expired=expired)
    name = cache_name(store.durable, store.namespace)
    usage = CacheUsage.objects.using(store.pool.alias).filter(name=name).first()
    hits, misses = (usage.hits, usage.misses) if usage else (0, 0)
    return Figures(alias, store.location, TABLES[store.durable], **counted, hits=hits, misses=misses)
