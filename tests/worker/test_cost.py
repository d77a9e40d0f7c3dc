"""What a short job costs a worker, counted: such numbers do not depend on the machine."""

from __future__ import annotations

import gc
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgonly_django import enqueue_many
from pgonly_django.compat import tasks_logger
from pgonly_django.models import Job, State
from pgonly_django.queue.claim import Claim
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from tests import jobs
from tests.counting import counted_calls

# Calls of Python functions, from the claimed row to the counted end. One of them takes about 0.1 us, of 15 for a job.
CALLS_AT_MOST = 37
SENDING = ("cursor.py:execute", "connection.py:execute", "libpq.py:_answer")


def run(worker, number):
    """Claim and run `number` jobs as the worker does it, but in one thread, which is no other's. Returns its calls."""
    enqueue_many((jobs.add, (1,)) for _ in range(number))
    gc.collect()  # what earlier tests have left behind calls functions of Python when it goes
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run_here, worker, Claim(number, {}, take_suspect=True)).result()


def run_here(worker, claim):
    with counted_calls() as counts:
        runs = worker.plan.take(worker.exchanger.exchange((), (), claim))
        worker.executor.look_who_listens()
        worker.in_flight.hold(runs)
        for each in runs:
            each.found_task = worker.executor.tasks.known(each.job)
            worker.slots._serve_one(each)
        for ended in worker.inbox.take(claim.limit, 0):
            worker.following.take(ended)
        result = worker.exchanger.exchange(worker.in_flight.finishes(time.monotonic()), (), None)
        for ended in worker.in_flight.settle(result):
            worker.following.close(ended, tells_successes=False)
        worker.stats.count()
    assert len(runs) == claim.limit
    assert worker.in_flight.is_empty
    return counts


@pytest.fixture
def worker(transactional_db, caplog):
    for name in (tasks_logger.name, "pgonly_django"):  # a line costs more than a job
        caplog.set_level(logging.WARNING, name)
    worker = WorkerLoop(WorkerOptions(threads=1))
    run(worker, 5)  # what is prepared, imported and looked up once
    yield worker
    worker.database.close_all()
    worker.inbox.close()


def test_a_job_costs_a_worker_few_calls_and_no_statement_of_its_own(worker):
    few, many = run(worker, 100), run(worker, 300)
    assert Job.objects.filter(state=State.SUCCEEDED).count() == 405
    of_a_job = many - few
    # What is called less than once for each job waits for the server, as long as the machine lets it.
    calls = sum(count // 200 for count in of_a_job.values())
    assert calls <= CALLS_AT_MOST, of_a_job.most_common(50)
    assert {name: of_a_job[name] // 200 for name in SENDING} == dict.fromkeys(SENDING, 0)
