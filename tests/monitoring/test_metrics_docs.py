"""docs/reference/metrics.md lists every metric, as it is in the code."""

from __future__ import annotations

import re
from pathlib import Path

from pgonly_django.monitoring.metrics import METRICS
from pgonly_django.worker.health.metrics import described

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "metrics.md").read_text()
ROW = re.compile(r"\| `(pgonly_\w+)` \| (\w+) \| ?(.*?) ?\| (.+) \|")


def rows(text):
    return [
        (name, kind, tuple(re.findall(r"`(\w+)`", labels)), what)
        for name, kind, labels, what in (
            ROW.fullmatch(line).groups() for line in text.splitlines() if "| `pg" in line
        )
    ]


def test_the_reference_lists_every_metric_of_the_site():
    of_site, _ = PAGE.split("## Of a worker")
    expected = [(each.name, each.kind.value, each.labels, each.text) for each in METRICS]
    assert rows(of_site) == expected


def test_the_reference_lists_every_metric_of_the_health_port():
    _, of_worker = PAGE.split("## Of a worker")
    assert rows(of_worker) == described()
