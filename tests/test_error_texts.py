from __future__ import annotations

import logging

from django.utils import timezone

from pgonly_django.error_texts import note_step, step_of
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
    assert "pgonly_django/context/context.py" in last


def test_the_log_has_the_same_traceback(run_jobs, caplog):
    logging_jobs.fail_in_step.enqueue()
    run_jobs()
    (record,) = [r for r in caplog.records if getattr(r, "event", "") == "worker.attempt_failed"]
    assert "pgonly_django/" not in logging.Formatter().formatException(record.exc_info)


def raised_in(name, *, cause=None):
    error = ValueError(name)
    error.__cause__ = cause
    note_step(error, name, timezone.now())
    return error


def test_of_nested_steps_and_of_causes_the_innermost_step_is_named():
    error = raised_in("inner")
    note_step(error, "outer", timezone.now())
    assert step_of(error)["step"] == "inner"
    wrapped = KeyError()
    wrapped.__cause__ = raised_in("cause")
    assert step_of(wrapped)["step"] == "cause"
    assert step_of(ExceptionGroup("two", [KeyError(), raised_in("of a group")]))["step"] == "of a group"
    assert step_of(KeyError()) == {}


def test_an_error_whose_causes_cannot_be_read_names_no_step():
    class OddError(Exception):
        __cause__ = property(lambda self: 1 / 0)

    assert step_of(OddError()) == {}
