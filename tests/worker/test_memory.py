from __future__ import annotations

import pytest
from django.db import connections

from pgonly_django.exceptions import OptionError
from pgonly_django.models import Job, State
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.memory import (
    Retirement,
    memory_of,
    own_rss_mb,
    refuse_too_little_memory,
    resident_bytes,
)
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import ExitCode
from tests import jobs
from tests.waiting import wait_for


def test_a_process_retires_after_so_many_jobs():
    retirement = Retirement(WorkerOptions(max_jobs_per_process=3))
    assert retirement.reason(is_used_up=False) is None
    assert retirement.reason(is_used_up=True) == "3 job(s) claimed (--max-jobs-per-process 3)"


def test_a_process_claims_no_more_jobs_than_it_may_run_however_short_they_are(transactional_db):
    results = [jobs.add.enqueue(1, 2) for _ in range(200)]
    worker = WorkerLoop(WorkerOptions(threads=4, max_jobs_per_process=10))
    assert worker.run() is ExitCode.REPLACE_ME
    assert Job.objects.filter(state=State.SUCCEEDED).count() == worker.following.jobs_done == 10
    assert Job.objects.filter(state=State.READY).count() == len(results) - 10
    connections.close_all()


def test_a_worker_that_ends_by_max_jobs_asks_for_no_fresh_process(transactional_db):
    jobs.add.enqueue(1, 2)
    worker = WorkerLoop(WorkerOptions(threads=1, max_jobs=1, max_jobs_per_process=2))
    assert worker.run() is ExitCode.STOPPED
    connections.close_all()


def test_a_process_retires_above_its_memory_which_is_looked_at_now_and_then():
    retirement = Retirement(WorkerOptions(max_memory_mb=1.0))
    assert "MB taken (--max-memory-mb 1)" in retirement.reason(is_used_up=False)
    assert retirement.reason(is_used_up=False) is None  # not looked at again so soon
    assert Retirement(WorkerOptions(max_memory_mb=1_000_000)).reason(is_used_up=False) is None


def test_less_memory_than_the_process_takes_at_its_start_is_refused():
    """Each process would be replaced before its first job."""
    with pytest.raises(OptionError, match=r"--max-memory-mb 1 is less than the .* MB that the process takes"):
        refuse_too_little_memory(WorkerOptions(max_memory_mb=1))
    refuse_too_little_memory(WorkerOptions(max_memory_mb=1_000_000))


def test_the_memory_of_a_process_is_known_and_of_none_that_is_not_there():
    import os

    memory = memory_of(os.getpid())
    assert 0 < memory.own <= memory.pss <= memory.rss
    assert own_rss_mb() == pytest.approx(resident_bytes(os.getpid()) / 2**20, rel=0.1)
    assert memory_of(2**22 + 1) is None


def test_a_process_that_has_run_all_jobs_of_its_worker_asks_for_no_other(work):
    jobs.add.enqueue(1)
    assert work(max_jobs=1, max_jobs_per_process=1).code is ExitCode.STOPPED


def test_a_worker_that_retires_finishes_what_it_holds_and_claims_no_more(background_worker, marks):
    worker = background_worker(threads=1)
    first = jobs.hold_on.enqueue("first", 1.0)
    wait_for(lambda: "first:started" in marks())
    later = jobs.mark_once.enqueue("later")
    worker.retire()
    wait_for(worker.left.is_set)
    first.refresh()
    assert first.is_finished
    assert (first.job.interruptions, later.job.state) == (0, "ready")


def test_a_worker_that_has_retired_asks_for_a_fresh_process(transactional_db):
    worker = WorkerLoop(WorkerOptions(threads=1))
    worker.retire()
    assert worker.run() is ExitCode.REPLACE_ME
    connections.close_all()
