from __future__ import annotations

import pytest
from django.core.management import CommandError

from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.start_checks import refuse_too_little_memory, warnings_of


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


def test_less_memory_than_the_process_takes_at_its_start_is_refused():
    """Each process would be replaced before its first job."""
    with pytest.raises(
        CommandError, match=r"--max-memory-mb 1 is less than the .* MB that the process takes"
    ):
        refuse_too_little_memory(WorkerOptions(max_memory_mb=1))
    refuse_too_little_memory(WorkerOptions(max_memory_mb=1_000_000))
