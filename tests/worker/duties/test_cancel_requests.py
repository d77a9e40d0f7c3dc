from __future__ import annotations

import pytest

from pgonly_django.models import State
from tests import jobs
from tests.waiting import wait_for


@pytest.mark.slow
def test_two_cancels_in_a_row_are_both_heard(background_worker, marks):
    background_worker()
    results = [jobs.sleep_in_slices.enqueue(key) for key in ("a", "b")]
    wait_for(lambda: {"a:started", "b:started"} <= set(marks()))
    for result in results:
        result.cancel()
    assert [result.wait(8).job.state for result in results] == [State.CANCELLED] * 2
