"""`runworker --processes N`: what happens to the processes, and to their jobs."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pgonly_django.models import Job, Worker
from tests import jobs
from tests.waiting import wait_for

pytestmark = pytest.mark.process


def job_of(result):
    return Job.objects.get(pk=result.id)


def children(supervisor):
    """By the names of the processes: the pids of those that have not stopped."""
    rows = Worker.objects.filter(name__startswith=f"{supervisor.name}-", stopped_at=None)
    return dict(rows.values_list("name", "pid"))


def start(workers, count, *flags, **options):
    supervisor = workers.start("--processes", str(count), *flags, ready=False, **options)
    wait_for(lambda: len(children(supervisor)) == count or supervisor.process.poll() is not None,
             what=f"{count} processes")  # fmt: skip
    assert supervisor.process.poll() is None, supervisor.output
    return supervisor


def test_a_killed_child_s_job_runs_elsewhere_within_two_seconds(workers, marks):
    supervisor = start(workers, 2, "--threads", "1", lease=60)
    result = jobs.slow_count.enqueue(30, 0.05, "k")
    wait_for(lambda: len(marks()) >= 5, what="five items")
    owner = Worker.objects.get(pk=job_of(result).worker_id)
    os.kill(owner.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    wait_for(lambda: job_of(result).lease_epoch == 2, what="the second run")
    assert time.monotonic() - killed_at < 2
    assert result.wait(40).return_value == 30
    job = job_of(result)
    assert (job.attempt, [entry["outcome"] for entry in job.errors]) == (1, ["crashed"])
    assert job.errors[0]["reason"] == "Its worker died while it ran (1 of 3 allowed)."
    wait_for(lambda: "1 job(s) of" in supervisor.output)
    assert f"{owner.name} (pid {owner.pid}) died of SIGKILL." in supervisor.output
    wait_for(lambda: len(children(supervisor)) == 2, what="another one in its place")
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait(10) == 0
    assert children(supervisor) == {}
    assert supervisor.output.splitlines()[-1].endswith(" INFO All processes have ended.")
