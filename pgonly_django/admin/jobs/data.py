"""Who may see what jobs were called with and what they returned, and what is shown of it."""

from __future__ import annotations

from django.http import HttpRequest

VIEW_DATA = "pgonly_django.view_job_data"
# What a filter in the address could tell letter by letter, by trying values.
DATA_COLUMNS = (
    "args", "kwargs", "metadata", "options", "result", "errors", "log", "progress", "unique_key", "concurrency_key",
)  # fmt: skip


def may_see_data(request: HttpRequest) -> bool:
    return request.user.has_perm(VIEW_DATA)


def is_of_data(lookup: str) -> bool:
    """Whether a filter of the address, such as "kwargs__token__startswith", is on what a job was called with."""
    return lookup.partition("__")[0] in DATA_COLUMNS
