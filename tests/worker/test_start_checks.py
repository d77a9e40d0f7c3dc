from __future__ import annotations

import pytest

from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.start_checks import warnings_of


@pytest.mark.parametrize(
    ("options", "urls", "has_port", "is_warned"),
    [
        ({}, [], False, False),
        ({"sleep_after": 30}, [], False, True),
        ({"sleep_after": 30}, [], True, True),
        ({"sleep_after": 30}, ["https://worker.example.com/wake"], False, True),
        ({"sleep_after": 30}, ["https://worker.example.com/wake"], True, False),
        ({"sleep_after": 30, "burst": True}, [], False, False),
        ({"sleep_after": 30, "poll_seconds": 600}, [], False, False),
    ],
)
def test_a_worker_that_nothing_would_wake_for_a_new_job_says_so(settings, options, urls, has_port, is_warned):
    settings.PGONLY = {"WAKE_URLS": urls}
    warnings = list(warnings_of(WorkerOptions(**options), has_port=has_port))
    assert bool(warnings) is is_warned
    assert all("--poll-seconds" in each for each in warnings)
