"""What a metric for Prometheus is, and the text that a scraper reads, without a library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

# What a metric has a sample for: the values of its labels, in their order, and the figures.
Rows = Iterable[tuple[tuple[str, ...], Any]]
# Of a histogram, cumulative: the bound in seconds and the number.
Buckets = Sequence[tuple[float, int]]


class Source(NamedTuple):
    """A source of several metrics. `rows` is called where none of the `parts` of the figures is None."""

    labels: str
    parts: str
    rows: Callable[[Any], Rows]


class Metric(NamedTuple):
    """A metric. `value_of` is called with the figures of each row; None: it has no sample."""

    name: str  # as it is in a query; of a histogram without _bucket
    text: str
    source: Source
    value_of: Callable[[Any], float | Buckets | None]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.source.labels.split())

    @property
    def kind(self) -> str:
        if self.name.endswith("_duration_seconds"):
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"

    def samples_of(self, figures: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        if all(getattr(figures, part) is not None for part in self.source.parts.split()):
            for labels, row in self.source.rows(figures):
                if (value := self.value_of(row)) is not None:
                    yield labels, value


def exposition(metrics: Iterable[Metric], figures: Any) -> str:
    """Returns gauges and counters in the text format."""
    lines = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}"]
        for values, value in metric.samples_of(figures):
            pairs = zip(metric.labels, map(_escaped, values), strict=True)
            labels = ",".join(f'{name}="{text}"' for name, text in pairs)
            lines.append(f"{metric.name}{labels and f'{{{labels}}}'} {value}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
