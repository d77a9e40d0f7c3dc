"""Metrics of caches and sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pgonly_django.monitoring.caches import CacheFigures
from pgonly_django.monitoring.metrics.metric import Kind, Metric, Sample
from pgonly_django.monitoring.stats import Stats

OF_CACHE = ("database", "cache")


def _cache(
    name: str, text: str, value_of: Callable[[CacheFigures], float | None], kind: Kind = Kind.GAUGE
) -> Metric:
    """`value_of` is asked where the cache has numbers."""

    def samples(stats: Stats) -> Iterator[Sample]:
        for cache in stats.caches or ():
            if not cache.problem and (value := value_of(cache)) is not None:
                yield (cache.database, cache.alias), value

    return Metric(name, text, ("caches",), OF_CACHE, samples, kind)


def _up(stats: Stats) -> Iterator[Sample]:
    for cache in stats.caches or ():
        yield (cache.database, cache.alias), float(not cache.problem)


def _tables(stats: Stats) -> Iterator[Sample]:
    """Caches share tables."""
    sizes = {
        (cache.database, cache.table): cache.table_bytes for cache in stats.caches or () if not cache.problem
    }
    yield from sizes.items()


def _active(stats: Stats) -> Iterator[Sample]:
    if stats.sessions is not None:
        yield (stats.database_of["sessions"],), stats.sessions.active.number


def _logged_in(stats: Stats) -> Iterator[Sample]:
    if stats.sessions is not None:
        yield (stats.database_of["sessions"],), stats.sessions.logged_in.number


METRICS = (
    Metric("pgonly_cache_up", "1 where the figures of the cache could be read.", ("caches",), OF_CACHE, _up),
    _cache("pgonly_cache_entries", "Entries, from 5,000 on an estimate.", lambda cache: cache.entries),
    _cache(
        "pgonly_cache_bytes",
        "Bytes of the entries, from 5,000 entries on an estimate.",
        lambda cache: cache.bytes,
    ),
    _cache(
        "pgonly_cache_max_entries", "Bound of the entries, where it has one.", lambda cache: cache.max_entries
    ),
    _cache("pgonly_cache_max_bytes", "Bound of the bytes, where it has one.", lambda cache: cache.max_bytes),
    _cache("pgonly_cache_hits_total", "Reads that found an entry.", lambda cache: cache.hits, Kind.COUNTER),
    _cache("pgonly_cache_misses_total", "Reads that found none.", lambda cache: cache.misses, Kind.COUNTER),
    Metric(
        "pgonly_cache_table_bytes",
        "Size on disk of a table of entries, with its indexes.",
        ("caches",),
        ("database", "table"),
        _tables,
    ),
    Metric(
        "pgonly_sessions_active",
        "Sessions that have not expired or ended, counted up to 5,000.",
        ("sessions",),
        ("database",),
        _active,
    ),
    Metric(
        "pgonly_sessions_logged_in",
        "Those of them that belong to a user, of the 5,000 that expire last.",
        ("sessions",),
        ("database",),
        _logged_in,
    ),
)
