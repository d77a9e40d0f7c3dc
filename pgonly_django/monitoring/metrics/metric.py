"""What a metric is: its name, what people read of it, and its samples of a Stats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pgonly_django.monitoring.stats import Stats

OTHERS = "(other)"  # the label of what is counted together since it is beyond a cap
# The values of the labels, in their order, and the value; of a histogram its buckets, which are cumulative: the bound
# in seconds and the number.
Buckets = Sequence[tuple[float, int]]
Sample = tuple[tuple[str, ...], float]
BucketsSample = tuple[tuple[str, ...], Buckets]


class Kind(StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """`samples` is called where none of the `parts` is missing."""

    name: str  # as it is in a query; of a histogram without _bucket
    text: str
    parts: tuple[str, ...]
    labels: tuple[str, ...]
    samples: Callable[[Stats], Iterable[Sample | BucketsSample]]
    kind: Kind = Kind.GAUGE

    def samples_of(self, stats: Stats) -> Iterable[Sample | BucketsSample]:
        return () if any(getattr(stats, part) is None for part in self.parts) else self.samples(stats)
