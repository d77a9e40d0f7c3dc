"""Metrics of the reading itself: what is missing, and why a value may be old."""

from __future__ import annotations

from collections.abc import Iterator

from pgonly_django.models.worker import own_version
from pgonly_django.monitoring.metrics.metric import Metric, Sample
from pgonly_django.monitoring.stats import PARTS, Stats


def _up(stats: Stats) -> Iterator[Sample]:
    yield (stats.database,), float(stats.is_up)


def _missing(stats: Stats) -> Iterator[Sample]:
    for part in PARTS:
        if part in stats.missing or getattr(stats, part) is not None:
            yield (stats.database, part), float(part in stats.missing)


def _seconds(stats: Stats) -> Iterator[Sample]:
    yield (stats.database,), stats.seconds


def _info(stats: Stats) -> Iterator[Sample]:
    yield (stats.database, own_version()), 1.0


METRICS = (
    Metric("pgonly_up", "1 where the database answered.", (), ("database",), _up),
    Metric(
        "pgonly_stats_missing",
        "1 where this part of the statistics could not be read; the log says why.",
        (),
        ("database", "part"),
        _missing,
    ),
    Metric("pgonly_stats_read_seconds", "How long this reading took.", (), ("database",), _seconds),
    Metric("pgonly_build_info", "1, with the version of pgonly-django.", (), ("database", "version"), _info),
)
