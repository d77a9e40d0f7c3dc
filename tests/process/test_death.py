"""What happens to jobs when their worker dies, is frozen, or is killed by the job itself."""

from __future__ import annotations

import signal
import time
from collections import Counter

import pytest
from django.db.models import F

from pgonly_django.models import Job, State, Worker
from pgonly_django.monitoring import workers as figures
from pgonly_django.monitoring.doctor.examination import examine
from pgonly_django.monitoring.waiting import Kind, why_it_waits
from pgonly_django.monitoring.workers import Served, served_queues
from tests import jobs
from tests.jobs import ending, looping
from tests.process.conftest import LEASE_SECONDS
from tests.process.supervised import start
from tests.waiting import wait_for

pytestmark = pytest.mark.process


def test_a_killed_workers_job_is_resumed_by_the_other_from_where_it_stood(workers, marks):
    workers.start("--threads", "1")
    workers.start("--threads", "1")
    result = jobs.slow_count.enqueue(30, 0.1, "k")
    wait_for(lambda: len(marks()) >= 8, what="eight items")
    owner = result.job.worker_id
    name = Worker.objects.get(pk=owner).name
    (victim,) = [worker for worker in workers.started if worker.name == name]
    victim.kill()
    done_at_kill = len(marks())
    assert result.wait(40).return_value == 30
    job = result.job
    assert job.worker_id != owner
    assert job.lease_epoch == 2
    assert (job.attempt, job.crashes) == (1, 0)
    assert [entry["outcome"] for entry in job.errors] == ["crashed"]
    counts = Counter(marks())
    assert set(counts) == {f"k:{i}" for i in range(30)}
    # Only the item in flight at the kill may have been done twice.
    assert sum(counts.values()) <= 31
    assert done_at_kill < 30


def test_a_worker_that_is_frozen_right_after_its_claim_is_found_by_an_idle_one(workers, marks):
    workers.start("--queues", "default", "--poll-seconds", "600")
    frozen = workers.start("--queues", "freezing", "--poll-seconds", "600")
    result = jobs.sleep_in_slices.using(queue_name="freezing").enqueue("k", 30.0)
    wait_for(lambda: result.job.state == State.RUNNING)
    frozen.send(signal.SIGSTOP)
    wait_for(lambda: result.job.crashes == 1, what="the rescue")
    frozen.send(signal.SIGCONT)
    wait_for(lambda: result.job.lease_epoch == 2, what="the second run")


def test_everything_says_that_a_worker_killed_while_idle_is_not_there_any_more(workers, settings):
    """The page of a job, the overview, the doctor and pgonly_health, within one lease."""
    settings.PGONLY = {"LEASE_SECONDS": LEASE_SECONDS}
    worker = workers.start("--poll-seconds", "600")
    wait_for(lambda: Worker.objects.filter(heartbeat_at__gt=F("started_at")).exists(), what="a heartbeat")
    assert figures.worker_totals("default").live == 1
    worker.kill()
    killed_at = time.monotonic()
    result = jobs.add.enqueue(1)
    wait_for(lambda: kinds_of(result) == [Kind.UNSERVED], what="the page of the job to say so")
    assert served_queues("default") == Served(all=False)
    assert not any(each.is_live for each in figures.workers("default"))
    assert figures.worker_totals("default").live == 0
    assert time.monotonic() - killed_at < LEASE_SECONDS
    assert "D121" in {finding.id for finding in examine("default", only=["workers"]).findings}


def kinds_of(result):
    return [reason.kind for reason in why_it_waits("default", result.job)]


@pytest.mark.slow
def test_a_frozen_workers_finish_changes_nothing_after_its_lease_ran_out(workers, marks):
    frozen = workers.start("--threads", "1")
    result = jobs.hold_on.enqueue("frozen", 3)
    wait_for(lambda: "frozen:started" in marks(), what="the start")
    frozen.send(signal.SIGSTOP)
    workers.start("--threads", "1")
    result.wait(40)
    finished = result.job
    assert finished.state == State.SUCCEEDED
    frozen.send(signal.SIGCONT)
    wait_for(lambda: "belongs to another worker now" in frozen.output,
             what="the frozen worker to learn that it was late")  # fmt: skip
    frozen.send(signal.SIGTERM)
    assert frozen.wait() == 0
    after = result.job
    assert (after.state, after.lease_epoch, after.finished_at, after.worker_id) == (
        finished.state,
        finished.lease_epoch,
        finished.finished_at,
        finished.worker_id,
    )


@pytest.mark.slow
def test_a_job_that_kills_its_worker_is_stopped_at_three_and_its_neighbours_succeed(workers, marks):
    innocents = [ending.innocent.enqueue(f"innocent {i}", 1.5) for i in range(20)]
    worker = workers.start("--threads", "21")
    wait_for(lambda: Job.objects.running().count() == 20, what="the innocents to run")
    poison = ending.kill_the_worker.enqueue()
    restarts, side_by_side = 0, 0

    def over():
        nonlocal worker, restarts, side_by_side
        suspects = Job.objects.running().filter(task=ending.innocent.module_path, crashes=2)
        side_by_side = max(side_by_side, suspects.count())
        if worker.process.poll() is not None:
            assert worker.process.returncode == -signal.SIGKILL, worker.output
            restarts += 1
            worker = workers.start("--threads", "21")
        return Job.objects.finished().count() == 21

    wait_for(over, 90, "all jobs to end")
    job = poison.job
    assert job.state == State.FAILED
    assert job.crashes == 3
    assert restarts == 3
    assert "died 3 times" in job.errors[-1]["reason"]
    assert {result.job.state for result in innocents} == {State.SUCCEEDED}
    # One that the poison kills between its mark and the commit of its end marks again: it is not atomic.
    assert set(marks()) == {f"innocent {i}" for i in range(20)}
    assert len(marks()) <= 20 + restarts
    # What one of them has saved clears it of the suspicion, so that the next one begins beside it.
    assert side_by_side > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "outcome", "deaths"),
    [(ending.die_after_each_step, State.SUCCEEDED, 6), (ending.die_after_the_same_saves, State.FAILED, 3)],
)
def test_a_job_may_die_as_often_as_it_saves_something_new(workers, task, outcome, deaths):
    """The kill comes right after the save, long before the next progress report."""
    start(workers, 2, "--threads", "1", lease=60)
    result = task.enqueue(6)
    wait_for(lambda: result.job.is_finished, 60, "its end")
    job = result.job
    assert job.state == outcome
    assert [entry["outcome"] for entry in job.errors] == ["crashed"] * deaths


@pytest.mark.slow
@pytest.mark.parametrize("task", [looping.loop_slowly, looping.loop_slowly_async])
def test_a_loop_of_a_killed_worker_repeats_a_second_of_items_at_most(workers, marks, task):
    first = workers.start("--threads", "1")
    result = task.enqueue("k", 40, 0.1)
    wait_for(lambda: len(marks()) >= 25, what="25 items")
    first.kill()
    workers.start("--threads", "1")
    wait_for(lambda: result.job.state == State.SUCCEEDED, 40, "its end")
    counts = Counter(marks())
    assert set(counts) == {f"k:{i}" for i in range(40)}
    # The items of one second, and the one at the kill.
    assert sum(counts.values()) <= 40 + 11
