"""The metrics for Prometheus, by prometheus-client, which is optional: the extra `prometheus`.

REGISTRY.register(PgonlyCollector()) puts them among the others of a project. Each reading of the registry reads the
database, so that all processes of a site answer alike.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from django.core.exceptions import ImproperlyConfigured

from pgonly_django.events import emit
from pgonly_django.exposition import Metric
from pgonly_django.monitoring.in_time import stats_in_time
from pgonly_django.monitoring.metrics import METRICS
from pgonly_django.monitoring.stats import Stats
from pgonly_django.tasks.backend import job_databases

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImproperlyConfigured(
        "The metrics of pgonly_django need prometheus-client: pip install prometheus-client."
    ) from error

SECONDS = 8.0  # below the 10 s that Prometheus usually waits for
# What the metrics are made of.
NEEDED_PARTS = tuple(dict.fromkeys(part for metric in METRICS for part in metric.source.parts.split()))


class PgonlyCollector(Collector):
    """A collector for prometheus-client: `REGISTRY.register(PgonlyCollector())`. It reads the `databases`, by default
    those in which TASKS keeps jobs, and answers within `seconds`. What could not be read by then is missing, and
    `pgonly_stats_missing` and `pgonly_up` say so."""

    def __init__(self, databases: Sequence[str] | None = None, *, seconds: float = SECONDS) -> None:
        self.databases, self.seconds = databases, seconds

    def describe(self) -> Iterator[Family]:
        """Returns no samples: register() asks for the names, and must not read the database."""
        return map(_family, METRICS)

    def collect(self) -> Iterator[Family]:
        databases = self.databases or job_databases()
        of_each = stats_in_time(databases, NEEDED_PARTS, self.seconds)
        for stats in of_each:
            _tell_of_missing(stats)
        yield from (family for metric in METRICS if (family := _family(metric, of_each)).samples)


def exposition(accept: str, names: Iterable[str] = (), seconds: float = SECONDS) -> tuple[bytes, str]:
    """Returns the text and its content type, as a scraper with this Accept header reads it. `names`: only these."""
    registry = CollectorRegistry()
    registry.register(PgonlyCollector(seconds=seconds))
    chosen = list(names)
    encode, content_type = choose_encoder(accept)
    return encode(registry.restricted_registry(chosen) if chosen else registry), content_type


def _family(metric: Metric, of_each: Iterable[Stats] = ()) -> Family:
    family = Family(metric.name.removesuffix("_total"), metric.text, metric.kind)
    for stats in of_each:
        for sample in metric.samples_of(stats):
            family.add_sample(*sample)
    return family


_told: dict[str, frozenset[str]] = {}


def _tell_of_missing(stats: Stats) -> None:
    """Logs what is missing, once until it changes: a metric has no place for the reason."""
    missing = frozenset(stats.missing)
    if _told.get(stats.database, frozenset()) == missing:
        return
    _told[stats.database] = missing
    if missing:
        parts_of: dict[str, list[str]] = {}
        for part, reason in stats.missing.items():
            parts_of.setdefault(reason, []).append(part)
        reasons = " ".join(f"{', '.join(parts)}: {reason}" for reason, parts in parts_of.items())
        text = f"Metrics of the database {stats.database!r} are missing. {reasons}"
        facts = {"database": stats.database, "parts": sorted(missing)}
        emit("monitoring.stats_missing", text, level=logging.WARNING, **facts)
