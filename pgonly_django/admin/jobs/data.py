"""The data of jobs as people see them: who may see them at all, and how far a job is, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext as _

from pgonly_django.admin.formats import ONE_SECOND, brief, progress_bar, whole
from pgonly_django.models import Job
from pgonly_django.monitoring.progress import BatchProgress, job_progress
from pgonly_django.queue.carried import JSON_CARRIED

VIEW_DATA = "pgonly_django.view_job_data"
# What a filter in the address could tell letter by letter, by trying values.
DATA_COLUMNS = (
    "args", "kwargs", *JSON_CARRIED, "options", "result", "errors", "log", "progress", "unique_key", "concurrency_key",
)  # fmt: skip
MESSAGE_SHOWN = 1_000


def may_see_data(request: HttpRequest) -> bool:
    return request.user.has_perm(VIEW_DATA)


def progress_of(job: Job, *, sees_data: bool, is_silent: bool = False) -> dict[str, Any] | None:
    """Returns a `bar` and its `percent` where the total is known; `figures`, `speed` and `left` as words; the
    `message`, only with `sees_data`, since it may have values of the job in it. None when nothing was reported that can
    be shown. `is_silent`: its worker is, so that speed and rest are not known."""
    progress = job_progress(job)
    if is_silent:
        progress = replace(progress, per_minute=None, left=None)
    message = brief((job.progress or {}).get("message") or "", MESSAGE_SHOWN) if sees_data else ""
    if progress.done is None and not message:
        return None
    figures = [f"{number:,}" for number in (progress.done, progress.total) if number is not None]
    return {
        "bar": "" if progress.total is None else progress_bar(progress.done or 0, progress.total),
        "percent": progress.percent,
        "figures": " / ".join(figures),
        "speed": _speed(progress.per_minute),
        "left": _("%s left") % whole(progress.left) if progress.left and progress.left >= ONE_SECOND else "",
        "message": message,
    }


def progress_of_parts(parts: BatchProgress, name: str = "") -> dict[str, Any]:
    """Returns the same of a batch."""
    return {
        "bar": progress_bar(parts.done, parts.total),
        "percent": parts.percent,
        "figures": f"{name}: {parts.words}" if name else parts.words,
        "message": "",
    }


def _speed(per_minute: float | None) -> str:
    if per_minute is None:
        return ""
    for minutes, text in ((1, _("%s per minute")), (60, _("%s per hour"))):
        if per_minute * minutes >= 1:
            return text % _rounded(per_minute * minutes)
    return _("%s per day") % _rounded(per_minute * 1440)


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"  # noqa: PLR2004 - two digits
