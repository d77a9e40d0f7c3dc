from __future__ import annotations

import pytest

from pgonly_django import enqueue_many
from pgonly_django.compat import TaskResultStatus
from pgonly_django.exceptions import AtomicStepError
from pgonly_django.models import Job, State, Step
from pgonly_django.testing import drain
from tests.jobs import transactions, watched


def test_an_atomic_job_keeps_its_progress_and_log(work):
    result = transactions.report_atomically.enqueue()
    work()
    assert result.progress == {"done": 5, "total": 5, "message": ""}
    assert [line["text"] for line in result.job.log] == ["hello"]


def test_an_atomic_job_keeps_its_progress_and_log_while_its_row_is_locked(work):
    result = watched.report_while_its_row_is_locked.enqueue()
    work()
    assert result.wait(1).status == TaskResultStatus.SUCCESSFUL
    assert result.progress == {"done": 5, "total": 5, "message": ""}
    assert [line["text"] for line in result.job.log] == ["hello"]


@pytest.mark.slow
def test_atomic_jobs_keep_their_progress_and_log_beside_others(work):
    """The worker reports for all that run whenever one ends: also for those that are about to write their own end."""
    enqueue_many([(watched.report_and_linger, (i % 40 / 4000,)) for i in range(300)])
    work(threads=4)
    rows = Job.objects.values_list("state", "progress__done", "log")
    assert {(state, done, *(line["text"] for line in log)) for state, done, log in rows} == {
        (State.SUCCEEDED, 5, "hello")
    }


def test_an_atomic_task_commits_with_its_finish(work, marks):
    good, bad = (
        transactions.mark_atomically.enqueue("good"),
        transactions.mark_atomically.enqueue("bad", fail=True),
    )
    work()
    assert marks() == ["good"]
    assert good.job.state == State.SUCCEEDED
    assert bad.job.state == State.FAILED


def test_an_atomic_job_that_lost_its_lease_leaves_no_effect(work, marks):
    result = watched.mark_without_a_lease.enqueue("zombie")
    work()
    assert marks() == []
    assert result.job.state == State.RUNNING


@pytest.mark.parametrize("where", ["worker", "drain"])
@pytest.mark.parametrize("task", [transactions.step_atomically, transactions.step_atomically_async])
def test_a_step_of_an_atomic_job_is_refused_before_it_is_called(work, marks, task, where):
    """A kill would roll it back with the job, and the next run would pay again."""
    result = task.using(max_attempts=1).enqueue("k")
    work() if where == "worker" else drain(raise_errors=False)
    assert result.job.state == State.FAILED
    assert result.job.errors[-1]["exception"] == f"{AtomicStepError.__module__}.AtomicStepError"
    assert "Leave out atomic=True" in result.job.errors[-1]["message"]
    assert (marks(), Step.objects.count()) == ([], 0)
