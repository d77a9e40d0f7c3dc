"""How far a job is, in words."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _

from pgonly_django.admin.formats import as_text
from pgonly_django.models import Job
from pgonly_django.monitoring.progress import JobProgress, job_progress
from pgonly_django.wording import duration

MESSAGE_SHOWN = 1_000


def progress_of(job: Job, *, sees_data: bool = True) -> dict[str, Any] | None:
    """`done`, `total`, both as `figures`, `percent`, `message`, and as words `speed` and `left`. None when the job
    reported nothing that can be shown. Without `sees_data` no message, which may have values of the job in it."""
    reported = job.progress if isinstance(job.progress, dict) else {}
    progress = job_progress(job)
    message = as_text(reported.get("message") or "", MESSAGE_SHOWN) if sees_data else ""
    if progress.done is None and not message:
        return None
    figures = [f"{number:,}" for number in (progress.done, progress.total) if number is not None]
    return {
        "done": progress.done,
        "total": progress.total,
        "percent": progress.percent,
        "figures": " / ".join(figures),
        "speed": _speed(progress),
        "left": _("%s left") % duration(progress.left) if progress.left else "",
        "message": message,
    }


def _speed(progress: JobProgress) -> str:
    rate = progress.per_minute
    if rate is None:
        return ""
    if rate >= 1:
        return _("%s per minute") % _rounded(rate)
    return (
        _("%s per hour") % _rounded(rate * 60) if rate * 60 >= 1 else _("%s per day") % _rounded(rate * 1440)
    )


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"  # noqa: PLR2004 - two digits
