"""drain(): runs the jobs of a test in the test, with the statements and the rules of a worker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from typing import NoReturn

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation

from pgonly_django.exceptions import JobInterrupt, WrongArgumentsError
from pgonly_django.models import Job
from pgonly_django.outcomes import Outcome
from pgonly_django.tasks.result import JobResult
from pgonly_django.tasks.stored_jobs import result_of
from pgonly_django.testing.backends import check_queue, databases_of, postgres_backends
from pgonly_django.testing.inline_worker import DrainError, InlineWorker
from pgonly_django.worker.ending import EndedRun

# More runs are a job that enqueues itself, or snoozes for no time: the test would never end.
RUNS_AT_MOST, RUNS_OF_ONE_JOB = 10_000, 100
# Where raise_errors counts. Retry, Snooze, Hold and Discard are what a job asks for.
RAISED = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.POSTPONED)

# All others are for the test run: Ctrl-C, a time limit of pytest's, pytest.skip().
OF_JOBS = (Exception, SystemExit, JobInterrupt, GeneratorExit, asyncio.CancelledError)


def drain(
    queue: str | Collection[str] | None = None,
    *,
    max_jobs: int | None = None,
    until: Callable[[], object] | None = None,
    raise_errors: bool = True,
) -> list[JobResult]:
    """Runs the jobs that are ready or due, in this thread, until no job is left that may start. Jobs that they enqueue
    run too.

        results = drain()
        assert results[0].return_value == 5

    `queue`: a name, or several in serving order; by default all. The drain stops after `max_jobs` runs, or when
    `until()` is true, which is asked before each run. An error of a run is raised here after its row is written, and
    the other jobs stay ready; with `raise_errors=False` the drain continues, and the rows and results have the errors.
    Returns the results of the jobs that ran, as their rows are at the end, in the order of their first run. Raises
    DrainError after 10,000 runs, or 100 runs of one job.

    In a TestCase savepoints stand for the job's transactions. Advisory locks, row locks and temporary tables last until
    the test ends, and now() stands still: test jobs that depend on these in a TransactionTestCase.
    """
    __tracebackhide__ = True
    with suppress(RuntimeError):  # no event loop runs here
        asyncio.get_running_loop()
        raise SynchronousOnlyOperation("drain() would block the event loop. Use `await adrain()`.")
    if not isinstance(queue, str | Collection | None):
        raise WrongArgumentsError("drain()", f"queue must be a name, or a list of names, got {queue!r}")
    if max_jobs is not None and not (isinstance(max_jobs, int) and max_jobs >= 1):
        raise WrongArgumentsError("drain()", f"max_jobs must be a whole number from 1, got {max_jobs!r}")
    if until is not None and not callable(until):
        raise WrongArgumentsError("drain()", f"until must be a function without parameters, got {until!r}")
    workers = _workers_for([queue] if isinstance(queue, str) else list(dict.fromkeys(queue or ())))
    ran: Counter[tuple[str, str]] = Counter()  # by alias and job, in the order of their first runs
    while not (_is_enough(ran, max_jobs) or (until is not None and until())):
        ended = next(filter(None, (worker.run_next() for worker in workers)), None)
        if ended is None:
            break
        ran[ended.run.alias, ended.run.job.id] += 1
        if ended.error is not None and not isinstance(ended.error, OF_JOBS):
            raise ended.error
        if raise_errors and ended.finish is not None and ended.finish.outcome in RAISED:
            _raise_error_of(ended)
    return _results(ran)


async def adrain(
    queue: str | Collection[str] | None = None,
    *,
    max_jobs: int | None = None,
    until: Callable[[], object] | None = None,
    raise_errors: bool = True,
) -> list[JobResult]:
    """See drain(). It runs where Django runs sync code, which in an async TestCase is the test's own thread."""
    drained = partial(drain, queue, max_jobs=max_jobs, until=until, raise_errors=raise_errors)
    return await sync_to_async(drained)()


def _workers_for(queues: list[str]) -> list[InlineWorker]:
    """Returns a worker for each database, ready to run jobs of these queues, or of all."""
    backends = postgres_backends()
    aliases = databases_of(backends)
    for name in queues:
        check_queue("drain()", name, backends, aliases)
    workers = [InlineWorker(alias, queues) for alias in aliases]
    for worker in workers:
        worker.start()
    return workers


def _is_enough(ran: Counter[tuple[str, str]], max_jobs: int | None) -> bool:
    """Returns whether the drain may end here. Raises DrainError where it would never end."""
    total = ran.total()
    if max_jobs is not None and total >= max_jobs:
        return True
    (_, job_id), runs = next(iter(ran.most_common(1)), (("", ""), 0))
    if runs >= RUNS_OF_ONE_JOB or total >= RUNS_AT_MOST:
        of_one = f"Job {job_id} has run {runs} times"
        what = of_one if runs >= RUNS_OF_ONE_JOB else f"{total:,} runs were made"
        raise DrainError(f"{what}, and there is still work: give drain() max_jobs or until.")
    return False


def _results(ran: Iterable[tuple[str, str]]) -> list[JobResult]:
    """Returns the results, without those of jobs whose rows do not exist any more."""
    rows: dict[tuple[str, str], Job] = {}
    for alias in {alias for alias, _ in ran}:
        found = Job.objects.using(alias).in_bulk([job_id for of, job_id in ran if of == alias])
        rows |= {(alias, str(key)): job for key, job in found.items()}
    return [result_of(rows[each]) for each in ran if each in rows]


def _raise_error_of(ended: EndedRun) -> NoReturn:
    """Raises the job's error. One that is not an Exception would end the test run: it becomes a cause."""
    __tracebackhide__ = True
    job, error, finish = ended.run.job, ended.error, ended.finish
    assert finish is not None
    what = f"{job.task} {job.id} raised it in drain(), attempt {job.attempt} of {job.max_attempts}"
    told = f"{what}. Its row is {finish.state.value}. With drain(raise_errors=False) the drain continues."
    if isinstance(error, Exception):
        error.add_note(told)
        raise error
    raise DrainError(f"{type(error).__name__}: {told}") from error
