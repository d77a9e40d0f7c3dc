"""Jobs that wait, in workers that are killed."""

from __future__ import annotations

import pytest

from pgonly_django import send_event
from pgonly_django.models import Event, State, Wait
from tests.jobs import waiting
from tests.process.supervised import start
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.mark.parametrize("is_early", [True, False])
def test_no_death_of_a_worker_at_any_statement_of_a_wait_loses_the_event(workers, is_early):
    start(workers, 2, "--threads", "1")
    for place in range(waiting.PLACES):
        assert_survived(place, is_early=is_early)
    assert not Wait.objects.exists()
    wait_for(lambda: not Event.objects.filter(is_delivered=False).exists())


def assert_survived(place, *, is_early):
    """`is_early`: the event comes before the job, and otherwise once that waits after its worker's death."""
    if is_early:
        send_event(str(place), place)
    result = waiting.die_at.using(max_attempts=3).enqueue(str(place), place)
    if not is_early:
        wait_for(lambda: result.job.state == State.SCHEDULED, what=f"place {place} to wait")
        send_event(str(place), place)
    wait_for(lambda: result.job.is_finished, what=f"place {place} to end")
    job = result.job
    assert (job.state, job.result, job.crashes, job.lease_epoch) == (
        State.SUCCEEDED,
        place,
        0,
        2 if is_early else 3,
    )
