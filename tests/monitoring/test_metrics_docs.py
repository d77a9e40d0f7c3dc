"""docs/reference/metrics.md lists every metric, as it is in the code."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path

from pgonly_django.monitoring.metrics import METRICS
from pgonly_django.worker.health.health import METRICS as METRICS_OF_WORKER
from tests.guards import refuse

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "metrics.md").read_text()
ROW = re.compile(r"\| `(pgonly_\w+)` \| (\w+) \| ?(.*?) ?\| (.+) \|")


def rows(text):
    return [
        (name, kind, tuple(re.findall(r"`(\w+)`", labels)), what)
        for name, kind, labels, what in (
            ROW.fullmatch(line).groups() for line in text.splitlines() if "| `pg" in line
        )
    ]


def row_of(name, kind, labels, what):
    return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {what} |".replace(
        "|  |", "| |"
    )


def compare(page, metrics, where):
    """In the page's order, which is that of the code."""
    code = [(each.name, each.kind, each.labels, each.text) for each in metrics]
    differ = [(expected, found) for expected, found in zip_longest(code, page) if expected != found]
    refuse(
        [
            f"{'-' if part is found else '+'} {row_of(*part)}"
            for expected, found in differ[:3]
            for part in (found, expected)
            if part
        ],
        "docs/reference/metrics.md is out of date (- what it says, + what the code says, in its order). Correct the "
        f"rows there; the code is {where}.",
    )


def test_the_reference_lists_every_metric_of_the_site():
    of_site, _ = PAGE.split("## Of a worker")
    compare(rows(of_site), METRICS, "METRICS in pgonly_django/monitoring/metrics.py")


def test_the_reference_lists_every_metric_of_the_health_port():
    _, of_worker = PAGE.split("## Of a worker")
    compare(rows(of_worker), METRICS_OF_WORKER, "METRICS in pgonly_django/worker/health/health.py")
