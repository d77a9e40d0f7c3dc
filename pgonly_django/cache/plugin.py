"""What the cache plugs into the worker."""

from __future__ import annotations

from collections import Counter
from functools import partial

from pgonly_django.cache.prune import prunable_databases, prune_expired
from pgonly_django.database.housekeeping import no_timeout
from pgonly_django.duties import BATCH, Pruning, tried
from pgonly_django.events import emit
from pgonly_django.plugins import Plugin


class PruneCaches(Pruning):
    """Deletes the expired entries of all caches, in each database where one of them is."""

    name = "Pruning caches"

    def prune(self) -> int:
        databases = sorted(prunable_databases(self.workplace.database))
        counts = {each: tried(f"Pruning the cache in {each!r}", partial(_prune, each)) for each in databases}
        self.deleted += Counter(counts)
        return max(counts.values(), default=0)

    def tell(self, count: int, database: str) -> None:
        message = f"{count} expired entries of caches were deleted."
        emit("cache.pruned", message, count=count, database=database)


def _prune(alias: str) -> int:
    with no_timeout(alias):
        return prune_expired(alias, BATCH)


class CachePlugin(Plugin):
    duties = (PruneCaches,)
