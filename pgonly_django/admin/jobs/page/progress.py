"""How far a job is, from what it reported."""

from __future__ import annotations

from typing import Any, TypeGuard

from pgonly_django.admin.formats import as_text
from pgonly_django.models import Job

MESSAGE_SHOWN = 1_000
LARGEST_FIGURE = 1e300  # so that done / total can be computed


def progress_of(job: Job) -> dict[str, Any] | None:
    """`done`, `total`, both as `figures`, and `message`. None when the job reported nothing that can be shown."""
    reported = job.progress if isinstance(job.progress, dict) else {}
    done, total = reported.get("done"), reported.get("total")
    counted = _is_figure(done)
    measured = counted and _is_figure(total) and total > 0
    message = as_text(reported.get("message") or "", MESSAGE_SHOWN)
    if not counted and not message:
        return None
    figures = [f"{number:,}" for number, known in ((done, counted), (total, measured)) if known]
    return {
        "done": done if counted else None,
        "total": total if measured else None,
        "figures": " / ".join(figures),
        "message": message,
    }


def _is_figure(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and abs(value) < LARGEST_FIGURE
