"""Tasks of this package on Django's own backends, as docs/how-to/testing.md says."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django import enqueue_many
from pgonly_django.compat import InvalidTask, TaskResultStatus, task_backends
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.testing import drain
from pgonly_django.testing.backends import NoRowsError
from tests.docs.assumed import DUMMY, IMMEDIATE
from tests.jobs import add, count_async, count_to, documented, drained


@pytest.fixture
def immediate(settings):
    settings.TASKS = IMMEDIATE


@pytest.fixture
def dummy(settings):
    settings.TASKS = DUMMY
    return task_backends["default"]


def test_a_task_runs_in_enqueue_with_its_context(immediate):
    assert add.enqueue(1, 2).return_value == 3
    assert count_to.enqueue(3).return_value == 5
    assert count_async.enqueue(3).return_value == 5
    assert documented.make_report.enqueue(3).return_value == 3


def test_what_the_context_says_there(immediate):
    result = drained.say_what_the_context_knows.enqueue()
    assert result.return_value == [False, None, None, 1, result.id, None]


@pytest.mark.parametrize("how", ["error", "snooze", "retry", "hold", "discard"])
def test_an_error_does_not_leave_enqueue(immediate, how):
    result = drained.end_by.enqueue(how)
    assert result.status == TaskResultStatus.FAILED
    assert len(result.errors) == 1
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value


def test_what_it_cannot_do_is_refused(immediate):
    with pytest.raises(InvalidTask):
        add.using(run_after=timezone.now() + timedelta(days=1)).enqueue(1)
    with pytest.raises(WrongArgumentsError, match="enqueue its tasks one by one"):
        enqueue_many([(add, [1])])
    with pytest.raises(NoRowsError, match="ImmediateBackend runs a job"):
        drain()


def test_the_dummy_backend_keeps_what_was_enqueued(dummy):
    count_to.enqueue(3)
    count_to.using(run_after=timezone.now() + timedelta(days=1)).enqueue(n=4)
    assert [(result.task.module_path, result.args, result.kwargs) for result in dummy.results] == [
        ("tests.jobs.count_to", [3], {}),
        ("tests.jobs.count_to", [], {"n": 4}),
    ]
    with pytest.raises(NoRowsError, match="DummyBackend keeps"):
        drain()
