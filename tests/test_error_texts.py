from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.error_texts import note_step, step_of
from pgonly_django.exceptions import JobTimedOut
from tests import jobs
from tests.jobs import ending, logging_jobs


def test_a_traceback_begins_in_the_job(run_jobs):
    results = [
        jobs.fail.using(max_attempts=1).enqueue("broken"),
        ending.exit_async.using(max_attempts=1).enqueue(),
    ]
    run_jobs()
    for result in results:
        first_frame = result.job.errors[-1]["traceback"].splitlines()[1]
        assert "tests/jobs/" in first_frame


def frames(result):
    text = result.job.errors[-1]["traceback"]
    return [line.strip() for line in text.splitlines() if line.lstrip().startswith("File ")]


def test_no_frame_of_the_package_stands_in_a_traceback_or_in_that_of_its_cause(run_jobs):
    result = logging_jobs.fail_in_step.enqueue()
    run_jobs()
    text = result.job.errors[-1]["traceback"]
    assert "KeyError: 'inside'" in text
    assert "ValueError: broken step" in text
    assert len(frames(result)) == 3  # the cause's own, the loop of the job, its step
    assert all("tests/jobs/" in line for line in frames(result))


def test_the_line_where_the_package_raised_it_stays(run_jobs):
    result = logging_jobs.fail_in_ours.enqueue()
    run_jobs()
    first, *between, last = frames(result)
    assert "fail_in_ours" in first
    assert between == []
    assert "pgonly_django/context/leaving.py" in last


def test_the_log_has_the_same_traceback(run_jobs, caplog):
    logging_jobs.fail_in_step.enqueue()
    run_jobs()
    (record,) = [r for r in caplog.records if getattr(r, "event", "") == "worker.attempt_failed"]
    assert "pgonly_django/" not in logging.Formatter().formatException(record.exc_info)


RUN = ("a job", 1)


def raised_in(name, *, kind=ValueError):
    error = kind(name)
    note_step(error, RUN, name, timezone.now())
    return error


def step_named(error, run=RUN):
    return step_of(error, run).get("step")


def test_the_step_of_a_cause_or_of_one_of_a_group_is_named():
    wrapped = KeyError()
    wrapped.__cause__ = raised_in("cause")
    assert step_named(wrapped) == "cause"
    assert step_named(ExceptionGroup("two", [KeyError(), raised_in("of a group")])) == "of a group"
    assert step_of(KeyError(), RUN) == {}


@pytest.mark.parametrize(
    ("handled", "named"), [(ValueError, None), (JobTimedOut, "ask"), (asyncio.CancelledError, "ask")]
)
def test_what_fails_while_an_error_of_a_step_is_handled_is_no_error_of_it(handled, named):
    """But what fails while an interruption passes through is not what ended the step."""
    later = KeyError()
    later.__context__ = raised_in("ask", kind=handled)
    assert step_named(later) == named


def test_of_an_error_that_is_raised_again_the_call_that_began_last_is_named():
    """Of nested steps that is the innermost."""
    began, error = timezone.now(), ValueError()
    for step, seconds, named in (("inner", 1, "inner"), ("outer", 0, "inner"), ("later", 2, "later")):
        note_step(error, RUN, step, began + timedelta(seconds=seconds))
        assert step_named(error) == named


def test_an_error_names_no_step_of_another_run():
    error = raised_in("ask")
    assert step_named(error, ("a job", 2)) is None
    note_step(error, ("a job", 2), "earlier", timezone.now() - timedelta(days=1))
    assert step_named(error, ("a job", 2)) == "earlier"


def test_an_error_whose_causes_cannot_be_read_names_no_step():
    class OddError(Exception):
        __cause__ = property(lambda self: 1 / 0)

    assert step_of(OddError(), RUN) == {}
