"""`runworker --processes N` with real workers: what happens to the processes, and to their jobs."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections import Counter

import pytest
from django.db import connection

from pgonly_django.models import Job, State, Worker
from tests import jobs
from tests.jobs import growing
from tests.process.supervised import children, lives, start
from tests.waiting import wait_for

pytestmark = pytest.mark.process


def names_of(results):
    return set(Worker.objects.filter(pk__in=[each.job.worker_id for each in results]).values_list("name"))


def test_a_killed_child_s_job_runs_elsewhere_within_two_seconds(workers, marks):
    supervisor = start(workers, 2, "--threads", "1", lease=60)
    result = jobs.slow_count.enqueue(30, 0.05, "k")
    wait_for(lambda: len(marks()) >= 5, what="five items")
    owner = Worker.objects.get(pk=result.job.worker_id)
    os.kill(owner.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    wait_for(lambda: result.job.lease_epoch == 2, what="the second run")
    assert time.monotonic() - killed_at < 2
    assert result.wait(40).return_value == 30
    job = result.job
    assert (job.attempt, [entry["outcome"] for entry in job.errors]) == (1, ["crashed"])
    assert job.errors[0]["reason"] == "Its worker died while it ran (1 of 3 allowed)."
    wait_for(lambda: "1 job(s) of" in supervisor.output)
    assert f"{owner.name} (pid {owner.pid}) died of SIGKILL." in supervisor.output
    wait_for(lambda: len(children(supervisor)) == 2, what="another one in its place")
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait(10) == 0
    assert children(supervisor) == {}
    assert supervisor.output.splitlines()[-1].endswith(" INFO All processes have ended.")


@pytest.mark.slow
def test_children_that_are_killed_all_the_time_pay_for_each_step_once(workers, marks):
    """Killed at any moment: between a claim and its answer, in a step, after an end that is not yet written."""
    supervisor = start(workers, 3, "--threads", "2", lease=60)
    results = [jobs.slow_count.enqueue(15, 0.05, f"k{number}") for number in range(6)]
    chance = random.Random(7)
    kills = 0
    while kills < 10 and any(not each.is_finished for each in results):
        for result in results:
            result.refresh()
        # A job is given up after its third crash, whatever it was at.
        Job.objects.filter(state__in=(State.READY, State.RUNNING)).update(crashes=0)
        pids = list(children(supervisor).values())
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
                kills += 1
        time.sleep(chance.uniform(0.05, 0.4))
    assert kills > 3
    wait_for(lambda: all(each.job.state == State.SUCCEEDED for each in results), 90, "all jobs to end")
    counts = Counter(marks())
    assert set(counts) == {f"k{number}:{item}" for number in range(6) for item in range(15)}
    # Only the step in flight at a kill may have been done twice.
    assert sum(counts.values()) <= 6 * 15 + kills * 2
    assert {each.job.attempt for each in results} == {1}


@pytest.mark.slow
def test_a_job_that_kills_its_process_fails_at_the_third_and_a_living_one_tells_of_it(workers, marks):
    supervisor = start(workers, 2, "--threads", "1", lease=60)
    result = growing.kill_the_process.enqueue("k")
    assert result.wait(60).is_finished
    assert (result.job.state, result.job.crashes) == (State.FAILED, 3)
    assert "died 3 times" in result.job.errors[-1]["reason"]
    wait_for(lambda: marks() == ["told of k"], what="its on_failure")
    assert supervisor.process.poll() is None
    assert jobs.add.enqueue(1, 1).wait(20).return_value == 2


@pytest.mark.slow
def test_a_stop_gives_the_jobs_of_all_children_back(workers, marks):
    supervisor = start(workers, 4, "--threads", "1", "--grace-seconds", "1")
    results = [jobs.hold_on.enqueue("listens"), *(jobs.stubborn.enqueue(f"deaf {n}") for n in range(3))]
    wait_for(lambda: len(marks()) == 4, what="all four to run")
    assert len(names_of(results)) == 4
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait(20) == 0
    rows = [each.job for each in results]
    assert {(row.state, row.attempt, row.crashes, row.interruptions) for row in rows} == {
        (State.READY, 0, 0, 1)
    }
    assert rows[0].checkpoint.value == {"seen": 1}
    assert Worker.objects.filter(stopped_at=None).count() == 0


@pytest.mark.slow
def test_ctrl_c_to_the_whole_group_is_one_stop_and_a_second_one_releases_at_once(workers, marks):
    supervisor = start(workers, 2, "--threads", "1", "--grace-seconds", "300")
    results = [jobs.stubborn.enqueue(f"k{n}") for n in range(2)]
    wait_for(lambda: len(marks()) == 2, what="both to run")
    os.killpg(supervisor.process.pid, signal.SIGINT)
    wait_for(lambda: supervisor.output.count("Stopping: 1 job(s)") == 2, what="both to be told")
    assert supervisor.process.poll() is None
    os.killpg(supervisor.process.pid, signal.SIGINT)
    assert supervisor.wait(15) == 0
    assert {(each.job.state, each.job.interruptions) for each in results} == {(State.READY, 1)}
    assert "Traceback" not in supervisor.output


def test_children_of_a_killed_supervisor_give_their_jobs_back_and_end(workers, marks):
    supervisor = start(workers, 2, "--threads", "1", "--grace-seconds", "5", lease=60)
    results = [jobs.hold_on.enqueue(f"k{n}") for n in range(2)]
    wait_for(lambda: len(marks()) == 2, what="both to run")
    pids = set(children(supervisor).values())
    supervisor.kill()
    wait_for(lambda: not any(map(lives, pids)), 15, "the end of the children")
    assert {(each.job.state, each.job.interruptions) for each in results} == {(State.READY, 1)}
    assert (
        supervisor.output.count("The supervisor has ended: this process gives its jobs back and ends.") == 2
    )


@pytest.mark.slow
def test_a_child_that_takes_too_much_memory_finishes_its_jobs_and_another_takes_its_place(workers, marks):
    supervisor = start(workers, 2, "--threads", "2", "--max-memory-mb", "200")
    result = growing.take_memory.enqueue("k", 200, 12.0)
    wait_for(lambda: "k:taken" in marks())
    owner = Worker.objects.get(pk=result.job.worker_id)
    wait_for(lambda: "(--max-memory-mb 200)" in supervisor.output, what="it to retire")
    wait_for(lambda: len(children(supervisor)) == 3 or Worker.objects.filter(name=owner.name).count() == 2,
             what="another one beside it")  # fmt: skip
    result.wait(30)
    assert (result.job.state, result.job.result) == (State.SUCCEEDED, owner.pid)
    assert (result.job.interruptions, result.job.crashes) == (0, 0)
    wait_for(lambda: f"{owner.name} (pid {owner.pid}) ended with code 3." in supervisor.output)
    assert len(children(supervisor)) == 2


@pytest.mark.slow
def test_children_are_replaced_after_so_many_jobs_and_none_is_lost(workers):
    supervisor = start(workers, 2, "--threads", "1", "--max-jobs-per-process", "2")
    seen = set()

    def has_changed():
        seen.add(growing.tell_pid.enqueue().wait(20).return_value)
        return len(seen) >= 4

    wait_for(has_changed, 60, "four processes")
    assert "job(s) claimed (--max-jobs-per-process 2)" in supervisor.output
    assert "starts again in" not in supervisor.output
    assert Job.objects.exclude(state=State.SUCCEEDED).count() == 0


@pytest.mark.slow
def test_a_burst_of_several_ends_when_no_job_is_left(workers):
    results = [jobs.count_to.enqueue(5) for _ in range(20)]
    supervisor = workers.start("--processes", "2", "--burst", ready=False)
    assert supervisor.wait(40) == 0
    assert {each.job.state for each in results} == {State.SUCCEEDED}
    assert re.search(r"processes 2\n", supervisor.output)
    assert supervisor.output.count("starts, forked.") == 2


@pytest.mark.slow
def test_where_the_project_starts_a_thread_the_processes_are_spawned_and_the_locks_are_free(workers):
    """The thread holds a lock that each job needs: in a forked child it would stay locked for ever."""
    result = growing.take_the_lock.enqueue()
    supervisor = workers.start(
        "--processes", "2", "--burst", ready=False, DJANGO_SETTINGS_MODULE="tests.process.threaded_settings"
    )
    assert supervisor.wait(60) == 0
    assert result.job.result == "taken"
    assert supervisor.output.count("starts, spawned.") == 2


def sessions():
    """By pid, the names of all others that are connected."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid, application_name FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
        return dict(cursor.fetchall())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_supervisor_holds_no_connection(workers, method):
    before = sessions()  # of the pools of this process
    supervisor = start(workers, 2, "--start-method", method)
    wait_for(lambda: "2 processes are ready." in supervisor.output)
    ids = [str(worker_id) for worker_id in Worker.objects.values_list("pk", flat=True)]

    def others():
        return {
            pid: name
            for pid, name in sessions().items()
            if pid not in before and not any(worker_id in name for worker_id in ids)
        }

    wait_for(lambda: not others(), 10, "only sessions of the workers")
