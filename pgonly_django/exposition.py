"""What a metric for Prometheus is, and the text that a scraper reads, without a library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
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

    def samples_of(self, figures: Any) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yields the name, the labels and the value of each sample."""
        if any(getattr(figures, part) is None for part in self.source.parts.split()):
            return
        for values, row in self.source.rows(figures):
            value, labels = self.value_of(row), dict(zip(self.labels, values, strict=True))
            if isinstance(value, Sequence):
                for bound, number in value:
                    le = "+Inf" if bound == inf else str(bound)
                    yield f"{self.name}_bucket", {**labels, "le": le}, number
            elif value is not None:
                yield self.name, labels, value


def exposition(metrics: Iterable[Metric], figures: Any) -> str:
    """Returns the text format."""
    lines = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}"]
        for name, labels, value in metric.samples_of(figures):
            pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            lines.append(f"{name}{pairs and f'{{{pairs}}}'} {value}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
