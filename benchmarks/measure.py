"""Percentiles and the JSON report, the same for every benchmark."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; `percent` in 0-100."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def write_report(path: str | None, figures: dict[str, Any]) -> None:
    """Write all figures of a run as JSON, with the versions and the number of CPUs they come from."""
    if path is None:
        return
    import django
    import psycopg

    about = {
        "python": platform.python_version(),
        "django": django.get_version(),
        "psycopg": psycopg.__version__,
        "cpus": os.cpu_count(),
    }
    Path(path).write_text(json.dumps({"about": about, **figures}, indent=2) + "\n")
