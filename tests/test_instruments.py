"""Hooks that misbehave, around enqueues and runs of a real worker."""

from __future__ import annotations

import contextlib
import logging
import time
from datetime import timedelta

import pytest
from django.db import transaction

from pgonly_django import enqueue_many, instruments
from pgonly_django.models import Job, State
from pgonly_django.testing import drain
from pgonly_django.worker import forked_child
from tests.jobs import add, add_async, carrying, count_async, count_to, fail, forking
from tests.worker.conftest import background_worker, work

__all__ = ["background_worker", "work"]

pytestmark = pytest.mark.django_db


@pytest.fixture
def use():
    """Adds hooks for one test."""
    with contextlib.ExitStack() as stack:
        yield lambda register, function: stack.callback(register(function))


@contextlib.contextmanager
def notes(into, *facts):
    into.append(["in", *facts])
    yield
    into.append(["out", *facts])


def raises(error):
    def hook(*facts):
        raise error

    return hook


class Breaks:
    """A context manager that raises where it is told to."""

    def __init__(self, place, error):
        self.place, self.error = place, error

    def __call__(self, *facts):
        return self

    def __enter__(self):
        if self.place == "enter":
            raise self.error

    def __exit__(self, *raised):
        if self.place == "exit":
            raise self.error
        return True  # which swallows nothing


class NeverLeft:
    def __enter__(self):
        return self


class BreaksWhenRead(dict):
    def items(self):
        raise LookupError("broken")


ERRORS = [ValueError("broken"), SystemExit(3)]
BROKEN = [raises(error) for error in ERRORS]
BROKEN += [Breaks(place, error) for place in ("enter", "exit") for error in ERRORS]
BROKEN += [lambda *_: 5]


@pytest.mark.parametrize("broken", BROKEN)
def test_an_instrument_that_breaks_changes_no_enqueue(use, broken, caplog):
    seen = []
    use(instruments.around_enqueue, broken)
    use(instruments.around_enqueue, lambda enqueue: notes(seen, enqueue))
    use(instruments.carry, broken)
    with transaction.atomic():
        result = add.enqueue(1)
        many = enqueue_many([(add, [2]), (add, [3])])
    assert [job.args for job in Job.objects.order_by("pk")] == [[1], [2], [3]]
    assert [word for word, _ in seen] == ["in", "out"] * 2
    assert result.job.metadata is None
    assert [job.id for job in seen[-1][1].jobs] == [each.id for each in many]
    assert "the work continues" in caplog.text


def test_what_cannot_be_left_changes_no_run_and_no_enqueue(use, run_jobs, caplog):
    for register in (instruments.around_enqueue, instruments.around_run, instruments.around_step):
        use(register, lambda *_: NeverLeft())
    result = count_to.enqueue(2)
    run_jobs()
    result.refresh()
    assert result.job.state == State.SUCCEEDED
    assert "__exit__" in caplog.text


def test_an_instrument_may_change_the_list_that_it_is_given(use):
    use(instruments.carry, lambda enqueue: enqueue.jobs.clear())
    results = enqueue_many([(add, [1]), (add, [2])])
    assert Job.objects.count() == len(results) == 2


def test_a_function_is_added_once_and_taken_away_once(use):
    calls = []
    first, second = instruments.carry(calls.append), instruments.carry(calls.append)
    add.enqueue(1)
    first(), second(), second()
    add.enqueue(1)
    assert len(calls) == 1


@pytest.mark.parametrize("task", [count_to, count_async])
def test_steps_alone_can_be_watched(use, run_jobs, task):
    seen = []
    use(instruments.around_step, lambda run, name: notes(seen, run.job.task, name))
    task.enqueue(1)
    run_jobs()
    assert seen == [["in", task.module_path, "square 0"], ["out", task.module_path, "square 0"]]


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "broken", [*BROKEN, raises(KeyboardInterrupt()), Breaks("exit", KeyboardInterrupt())]
)
@pytest.mark.parametrize("task", [count_to, count_async])
def test_an_instrument_that_breaks_changes_no_run_and_no_step(use, work, broken, task, caplog):
    seen = []
    is_interrupt = isinstance(getattr(broken, "error", None), KeyboardInterrupt) or broken not in BROKEN
    use(instruments.around_run, broken)
    use(instruments.around_run, lambda run: notes(seen, run))
    if not is_interrupt:
        use(instruments.around_step, broken)
    result = task.enqueue(3)
    work()
    result.refresh()
    assert result.return_value == 5
    assert [word for word, _ in seen] == ["in", "out"]
    assert seen[0][1].outcome == "succeeded"
    assert "the work continues" in caplog.text


def test_an_instrument_swallows_no_error_of_a_job_or_an_enqueue(use, run_jobs):
    for register in (instruments.around_enqueue, instruments.around_run, instruments.around_step):
        use(register, Breaks("", None))
    result = fail.using(max_attempts=1).enqueue()
    run_jobs()
    assert result.job.state == State.FAILED
    with pytest.raises(Exception, match="cannot be called"):
        add.enqueue()


def test_a_run_is_told_with_its_end(use, work):
    seen, failed = [], []
    use(instruments.around_run, lambda run: notes(seen, run))
    use(instruments.on_failed, failed.append)
    fail.using(metadata={"a": 1}, queue_name="q").enqueue()
    worker = work()
    runs = [run for word, run in seen if word == "out"]
    assert [(run.outcome, run.state, run.job.attempt) for run in runs] == [
        ("failed", "ready", 1),
        ("failed", "ready", 2),
        ("failed", "failed", 3),
    ]
    assert {str(run.error) for run in runs} == {"no"}
    assert (runs[0].job.queue, runs[0].job.metadata, runs[0].worker) == ("q", {"a": 1}, worker.options.name)
    assert failed == [runs[-1]], "once, and with the run that failed"


def test_drain_calls_all_of_them(use):
    seen, failed = [], []
    use(instruments.around_run, lambda run: notes(seen, run.job.task))
    use(instruments.around_step, lambda run, name: notes(seen, name))
    use(instruments.on_failed, lambda run: failed.append(run.outcome))
    count_to.enqueue(1)
    fail.using(max_attempts=1).enqueue()
    add_async.enqueue(1, 2)
    drain(raise_errors=False)
    assert [fact for word, fact in seen if word == "in"] == [
        "tests.jobs.count_to",
        "square 0",
        "tests.jobs.fail",
        "tests.jobs.add_async",
    ]
    assert failed == ["failed"]


@pytest.mark.slow
def test_an_instrument_that_hangs_ends_with_the_job_s_max_runtime(use, background_worker):
    """It is in the job's thread, and counts as the job's own time."""
    use(instruments.around_run, lambda run: time.sleep(3))
    background_worker(threads=2, grace_seconds=0.2)
    result = add.using(max_runtime=timedelta(seconds=0.3), max_attempts=1).enqueue(1)
    result.wait(15)
    assert result.job.errors[-1]["outcome"] == "timed out"


def test_what_an_instrument_enqueues_calls_no_instrument(use, run_jobs):
    def and_another(each):
        if not isinstance(each, instruments.JobRun) or each.job.id == result.id:
            add.enqueue(9)
        return contextlib.nullcontext()

    calls = []
    use(instruments.carry, lambda enqueue: calls.append(enqueue) or (add.enqueue(7) and {"a": 1}))
    use(instruments.around_enqueue, and_another)
    result = carrying.tell.enqueue()
    assert len(calls) == 1
    assert sorted(job.args for job in Job.objects.all()) == [[], [7], [9]]
    use(instruments.around_run, and_another)
    run_jobs()
    result.refresh()
    assert result.return_value == {"a": 1}


def test_what_jobs_carry_stands_beside_their_own_metadata_which_wins(use):
    use(instruments.carry, lambda enqueue: {"request": "7f", "tenant": "other", "n": 5})
    alone = add.enqueue(1)
    own = add.using(metadata={"tenant": "acme", 'q"\\': "é"}).enqueue(1)
    assert alone.job.metadata == {"request": "7f", "tenant": "other", "n": 5}
    assert own.job.metadata == {"request": "7f", "tenant": "acme", "n": 5, 'q"\\': "é"}
    assert dict(own.metadata) == own.job.metadata


@pytest.mark.parametrize(
    "headers",
    [
        {"a": "x" * 9000},
        {"a": "nul \0"},
        {"nul \0": "a"},
        {5: "a"},
        {"a": float("nan")},
        {"a": object()},
        BreaksWhenRead(a=1),
        {"a": BreaksWhenRead(b=1)},
        [1],
        "ab",
    ],
)
def test_headers_that_cannot_be_carried_are_left_out_and_the_others_are_carried(use, headers, caplog):
    use(instruments.carry, lambda enqueue: headers)
    use(instruments.carry, lambda enqueue: {"good": "1"})
    with caplog.at_level(logging.WARNING):
        results = [add.enqueue(1), *enqueue_many([(add, [2])])]
    assert [result.job.metadata for result in results] == [{"good": "1"}] * 2


def test_the_longest_headers_go_first_where_eight_kilobytes_do_not_hold_all(use):
    use(instruments.carry, lambda enqueue: {"a": "1" * 100, "b": "2" * 4500, "c": "3" * 3000})
    assert set(add.enqueue(1).metadata) == {"a", "b", "c"}
    assert set(add.using(metadata={"own": "x" * 4000}).enqueue(1).metadata) == {"own", "a", "c"}
    assert set(add.using(metadata={"own": "x" * 8170}).enqueue(1).metadata) == {"own"}


def test_a_child_that_a_job_forks_leaves_no_instrument(use, run_jobs, tmp_path):
    def into_file(run):
        @contextlib.contextmanager
        def hook():
            yield
            with (tmp_path / "ends").open("a") as file:
                file.write("end\n")

        return hook()

    use(instruments.around_run, into_file)
    result = forking.come_back_twice_async.enqueue()
    with forked_child.as_worker({}):
        run_jobs()
    assert result.job.result == 0, "how the child ended"
    assert (tmp_path / "ends").read_text() == "end\n"
