"""Whatever a job raises or breaks: its row gets an end, and the worker works on."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from pgonly_django import enqueue_many
from pgonly_django.compat import task_finished, task_started
from pgonly_django.models import Job, State
from pgonly_django.outcomes import Outcome
from pgonly_django.worker.running import Executor
from tests import activity, jobs
from tests.jobs import poison
from tests.waiting import beside, wait_for


@pytest.fixture
def of_each(request):
    """How many jobs of each kind; with a filter that raises an error in the way of the log lines, or none."""
    number, error = request.param
    logger = logging.getLogger("pgonly_django.worker")

    def bad(record):
        if error is not None and "poison" in record.getMessage():
            raise error
        return True

    logger.addFilter(bad)
    yield number
    logger.removeFilter(bad)


@pytest.fixture
def hostile_receivers(receive):
    def receiver(task_result, **_):
        if "meet_a_receiver" in task_result.task.module_path:
            raise (GeneratorExit if "async" in task_result.task.module_path else SystemExit)

    for signal in (task_started, task_finished):
        receive(signal, receiver)


def test_a_connection_that_a_job_has_spoilt_is_closed(work):
    before = set(activity.pids())
    enqueue_many([(poison.spoil_its_connection.using(max_attempts=1), ())] * 3)
    work(threads=1)
    wait_for(lambda: set(activity.pids()) <= before, what="the sessions to be over")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.usefixtures("hostile_receivers")
@pytest.mark.parametrize(
    "of_each",
    [(20, None), (3, SystemExit(3)), (3, ValueError("a filter that fails"))],
    indirect=True,
    ids=["20", "exit", "raise"],
)
def test_twenty_poison_jobs_of_every_kind_leave_a_worker_that_works(background_worker, of_each):
    worker = background_worker(threads=2)
    enqueue_many([(task, ()) for _ in range(of_each) for task in poison.POISON])
    wait_for(lambda: not unfinished(), 60, "the end of all poisoned jobs")
    good = enqueue_many([(jobs.add, (i,)) for i in range(50)] + [(jobs.add_async, (i, 1)) for i in range(50)])
    assert [result.wait(30).return_value for result in good] == [i % 50 + 1 for i in range(100)]
    assert worker.slots.stuck == 0
    ends = Counter(Job.objects.filter(task__startswith="tests.jobs.poison").values_list("task", "state"))
    assert {state for _, state in ends} <= {State.FAILED, State.SCHEDULED}
    assert set(ends.values()) == {of_each}


def unfinished():
    poisoned = Job.objects.filter(
        task__startswith="tests.jobs.poison", state__in=[State.READY, State.RUNNING]
    )
    return set(poisoned.values_list("task", flat=True))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_odd_error_beside_a_cancellation_of_every_task_gets_its_end(background_worker):
    background_worker(threads=1)
    assert poison.cancel_every_task_with_its_end.enqueue().wait(20).job.state == State.FAILED


def test_an_end_that_is_not_taken_is_handed_in_again(run_of):
    delivered, failures = [], iter([SystemExit, MemoryError])

    def deliver(ended):
        for failure in failures:
            raise failure
        delivered.append(ended)

    with beside(Executor("default", "id", deliver).run, run_of(jobs.add, 1)):
        pass
    assert [ended.finish.outcome for ended in delivered] == [Outcome.SUCCEEDED]


def test_an_exception_that_comes_to_a_thread_between_two_jobs_costs_no_slot(background_worker, caplog):
    """As of a library's timeout that raises in the job's thread, too late."""
    background_worker(threads=1)
    assert poison.outrun_a_timeout.enqueue().wait(10).job.state == State.SUCCEEDED
    assert poison.timeout_is_over.wait(10)
    result = jobs.add.enqueue(1).wait(10)
    assert (result.return_value, result.attempts) == (2, 1)
    assert "between two jobs" in caplog.text


def test_what_breaks_its_own_record_still_says_what_it_was(work):
    results = {name: getattr(poison, f"sync_{name}").enqueue() for name in ("no_text", "odd_base")}
    work(threads=1)
    for result in results.values():
        (entry,) = result.job.errors
        assert entry["exception"].startswith("tests.jobs.poison.")
        assert 'poison.py"' in entry["traceback"]
    assert "its text is not available: SystemExit" in results["no_text"].job.errors[0]["message"]
