from threading import Event

from pgonly_django.cache.prune import prunable_databases, prune_expired
from pgonly_django.events import emit
from pgonly_django.worker.duties.duty import BATCH, INTERVAL_SECONDS, Connect, in_batches, no_timeout, tried


class PruneCaches:
    """Deletes expired cache rows, in each database that a cache uses."""

    name, interval = "Pruning caches", INTERVAL_SECONDS

    def __init__(self, alias: str) -> None:
        self.alias = alias

    def run_once(self, jobs: Connect, over: Event) -> int:  # noqa: ARG002 - a duty's signature
        aliases = sorted(prunable_databases(self.alias))
        return sum(tried(f"Pruning the cache in {alias!r}", _prune, alias, over) for alias in aliases)


def _prune(alias: str, over: Event) -> int:
    with no_timeout(alias):
        count = in_batches(lambda: prune_expired(alias, BATCH), over)
    if count:
        emit("cache.pruned", f"{count} expired entries of caches were deleted.", count=count, database=alias)
    return count
