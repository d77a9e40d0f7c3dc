"""Jobs that wait, in workers that are killed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pgonly_django import send_event
from pgonly_django.models import Event, Job, State, Wait
from tests.jobs import waiting
from tests.process.supervised import start
from tests.queue.rows import DAY, ago
from tests.sql import value
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


IDLE_SECONDS = 8
TRANSACTIONS = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"


def test_ten_thousand_waiting_jobs_cost_an_idle_worker_neither_statements_nor_cpu(workers):
    """Beside none: first without them, then among them."""
    worker = workers.start("--threads", "1", lease=60)
    time.sleep(22)  # until its looks are as rare as they become
    alone = spent_by(worker)
    jobs = Job.objects.bulk_create(
        Job(task="t", state=State.SCHEDULED, run_at=ago(-DAY), lease_epoch=1) for _ in range(10_000)
    )
    Wait.objects.bulk_create(
        Wait(job=job, name="event k", key=f"k {number}", lease_epoch=1) for number, job in enumerate(jobs)
    )
    time.sleep(1)  # until the server has counted that

    def cost_nothing():
        transactions, cpu = spent_by(worker)
        return transactions <= alone[0] + 3 and cpu <= alone[1] + 0.1

    assert any(cost_nothing() for _ in range(3)), (
        "and autovacuum, whose transactions count, too, is over by then"
    )


def spent_by(worker):
    """The transactions and the seconds of CPU of an idle while. Each statement of a worker is a transaction."""
    transactions, cpu = value(TRANSACTIONS), cpu_of(worker)
    time.sleep(IDLE_SECONDS)
    return value(TRANSACTIONS) - transactions, cpu_of(worker) - cpu


def cpu_of(worker):
    fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
