from __future__ import annotations

import json
from datetime import timedelta

import pytest

from pgonly_django.models import Checkpoint, Job, Step
from pgonly_django.models.job import State
from pgonly_django.models.job_rows import ERRORS_KEPT, LOG_LINES_KEPT
from pgonly_django.outcomes import Outcome
from pgonly_django.queue import checkpoints, finish
from pgonly_django.queue.finish import REPORT, Report, finish_statements, report_parameters
from pgonly_django.queue.rescue import rescue
from tests.queue.rows import (
    HOUR,
    MINUTE,
    ago,
    claim,
    claimer,
    finish_of,
    fresh,
    make,
    make_running,
    make_worker,
    while_locked,
    write,
)


def entry(**facts) -> str:
    return json.dumps({"outcome": "failed", "exception": "builtins.ValueError", **facts})


def test_a_success_keeps_the_result_and_sets_the_end_and_the_pruning_time(server):
    job = make_running(retention=HOUR, crashes=1)
    assert write(server, finish_of(job, result='{"a": [1, null]}')) == 1
    row = fresh(job)
    assert (row.state, row.result, row.crashes, row.lease_expires_at) == (
        State.SUCCEEDED,
        {"a": [1, None]},
        0,
        None,
    )
    assert abs(row.delete_after - row.finished_at - HOUR) < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("outcome", "state"), [(Outcome.SUCCEEDED, State.SUCCEEDED), (Outcome.FAILED, State.FAILED)]
)
@pytest.mark.parametrize("lease", [0, 2])
def test_a_finish_with_another_lease_changes_nothing(server, outcome, state, lease):
    job = make_running()
    assert write(server, finish_of(job, outcome, state, lease_epoch=lease, result="1", entry=entry())) == 0
    assert fresh(job).state == State.RUNNING


@pytest.mark.parametrize("state", [state for state in State if state is not State.RUNNING])
def test_a_finish_of_a_job_that_does_not_run_changes_nothing(server, state):
    job = make_running(state=state, run_at=ago(HOUR))
    write(server, finish_of(job, result="1"), finish_of(job, Outcome.FAILED, State.FAILED))
    assert (fresh(job).state, fresh(job).result) == (state, None)


@pytest.mark.parametrize(
    ("outcome", "state"), [(Outcome.SUCCEEDED, State.SUCCEEDED), (Outcome.CANCELLED, State.CANCELLED)]
)
def test_without_retention_a_finished_job_is_never_due_for_pruning(server, outcome, state):
    job = make_running(retention=None)
    write(server, finish_of(job, outcome, state))
    assert (fresh(job).state, fresh(job).delete_after) == (state, None)


def test_a_late_finish_harms_none_of_its_batch(server):
    good, late = make_running(), make_running(lease_epoch=5)
    assert write(server, finish_of(good, result="1"), finish_of(late, lease_epoch=4, result="2")) == 1
    assert (fresh(good).state, fresh(late).state) == (State.SUCCEEDED, State.RUNNING)


def test_a_rescued_job_ignores_its_first_worker(server):
    job = make()
    (first,) = claim(server, claimer())
    write(server, finish_of(first, Outcome.RELEASED, State.READY))
    (second,) = claim(server, claimer())
    assert write(server, finish_of(first, result='"stale"')) == 0
    assert write(server, finish_of(second, result='"good"')) == 1
    assert fresh(job).result == "good"


def test_a_failed_attempt_waits_for_its_delay_and_is_on_record(server):
    job = make_running(attempt=2)
    write(server, finish_of(job, Outcome.FAILED, State.SCHEDULED, delay_seconds=90.0, entry=entry()))
    row = fresh(job)
    assert (row.state, row.attempt, row.finished_at, row.delete_after) == (State.SCHEDULED, 2, None, None)
    assert timedelta(seconds=80) < row.run_at - ago(timedelta(0)) <= timedelta(seconds=90)
    (error,) = row.errors
    assert (error["attempt"], error["exception"]) == (2, "builtins.ValueError")
    assert error["started_at"] <= error["finished_at"]


@pytest.mark.parametrize(
    ("outcome", "state", "facts", "attempt", "interruptions", "crashes"),
    [
        (Outcome.SNOOZED, State.SCHEDULED, {"delay_seconds": 1.0, "costs_attempt": False}, 2, 0, 0),
        (Outcome.RETRIED, State.SCHEDULED, {"delay_seconds": 1.0}, 3, 0, 0),
        (Outcome.RELEASED, State.READY, {"costs_attempt": False}, 2, 1, 1),
        (Outcome.RELEASED, State.READY, {"costs_attempt": False, "started": False}, 2, 0, 1),
        (Outcome.POSTPONED, State.SCHEDULED, {"delay_seconds": 1.0, "costs_attempt": False}, 2, 0, 1),
        (Outcome.TIMED_OUT, State.SCHEDULED, {"delay_seconds": 1.0}, 3, 0, 0),
    ],
)
def test_each_outcome_draws_on_its_own_budget(server, outcome, state, facts, attempt, interruptions, crashes):
    job = make_running(attempt=3, crashes=1)
    write(server, finish_of(job, outcome, state, **facts))
    row = fresh(job)
    assert (row.state, row.attempt, row.interruptions, row.crashes) == (
        state,
        attempt,
        interruptions,
        crashes,
    )


@pytest.mark.parametrize(("step", "crashes"), [("made before", 2), ("new", 0)])
def test_a_suspect_that_is_released_stays_one_unless_it_has_saved_something_new(server, step, crashes):
    job = make_running(make_worker(silent_for=HOUR).id, lease_expires_at=ago(HOUR))
    save_step(job, "made before")
    rescue(server, timedelta(seconds=30), timedelta(0))
    Job.objects.update(state=State.RUNNING, crashes=2, lease_expires_at=ago(-HOUR))
    save_step(job, step)
    write(server, finish_of(job, Outcome.RELEASED, State.READY, costs_attempt=False))
    assert (fresh(job).state, fresh(job).crashes) == (State.READY, crashes)


def save_step(job, name):
    checkpoints.save_step("default", str(job.id), job.lease_epoch, name, "1")


def test_a_released_job_keeps_its_place_and_begins_to_wait_now(server):
    job = make_running(ready_at=ago(HOUR))
    write(server, finish_of(job, Outcome.RELEASED, State.READY, costs_attempt=False))
    row = fresh(job)
    assert row.ready_at == job.ready_at
    assert row.waiting_since > ago(MINUTE)


def test_a_job_that_was_claimed_ahead_and_never_began_has_waited_all_the_time(server):
    job = make_running(ready_at=ago(HOUR))
    write(server, finish_of(job, Outcome.RELEASED, State.READY, costs_attempt=False, started=False))
    row = fresh(job)
    assert row.ready_at == row.waiting_since == job.ready_at


def test_a_job_that_is_held_keeps_its_place(server):
    job = make_running(ready_at=ago(HOUR))
    write(server, finish_of(job, Outcome.HELD, State.HELD, costs_attempt=False, held_by="it"))
    assert fresh(job).ready_at == job.ready_at


def test_a_job_that_polls_goes_to_the_end_whatever_it_has_saved(server):
    job = make_running(ready_at=ago(HOUR))
    Step.objects.create(job=job, name="submit", result=1)
    write(server, finish_of(job, Outcome.SNOOZED, State.SCHEDULED, delay_seconds=0.0, polls=True))
    assert fresh(job).ready_at > ago(MINUTE)


@pytest.mark.sample(2)
@pytest.mark.parametrize("state", [State.SCHEDULED, State.READY])
@pytest.mark.parametrize("outcome", [Outcome.SNOOZED, Outcome.FAILED, Outcome.RETRIED, Outcome.POSTPONED])
@pytest.mark.parametrize("saved", ["step", "checkpoint"])
def test_a_job_that_has_saved_something_keeps_its_place_whatever_ends_its_run(server, outcome, saved, state):
    job, without = make_running(ready_at=ago(HOUR)), make_running(ready_at=ago(HOUR))
    if saved == "step":
        Step.objects.create(job=job, name="a", result=1)
    else:
        Checkpoint.objects.create(job=job, value=1)
    write(server, *(finish_of(each, outcome, state, delay_seconds=0.0) for each in (job, without)))
    assert fresh(job).ready_at == job.ready_at
    assert fresh(without).ready_at > ago(MINUTE)


def test_the_last_ten_errors_are_kept(server):
    job = make_running(errors=[{"n": n} for n in range(ERRORS_KEPT)])
    write(server, finish_of(job, Outcome.FAILED, State.FAILED, entry=entry(n="new")))
    assert [error["n"] for error in fresh(job).errors] == [*range(1, ERRORS_KEPT), "new"]


def test_a_spell_of_not_knowing_the_task_is_one_entry(server):
    job = make_running(errors=[{"outcome": "failed"}, {"outcome": "postponed", "reason": "first"}])
    again = json.dumps({"outcome": "postponed", "reason": "second"})
    write(server, finish_of(job, Outcome.POSTPONED, State.SCHEDULED, delay_seconds=1.0, entry=again))
    assert [error.get("reason") for error in fresh(job).errors] == [None, "second"]


@pytest.mark.parametrize(
    ("outcome", "state"), [(Outcome.RELEASED, State.READY), (Outcome.SNOOZED, State.SCHEDULED)]
)
def test_a_job_that_was_to_be_cancelled_does_not_go_back_to_waiting(server, outcome, state):
    job = make_running(cancel_requested_at=ago(timedelta(seconds=1)), retention=HOUR)
    write(server, finish_of(job, outcome, state, delay_seconds=1.0))
    row = fresh(job)
    assert row.state == State.CANCELLED
    assert row.finished_at < row.delete_after


def test_a_job_that_succeeds_before_its_cancellation_arrives_has_succeeded(server):
    job = make_running(cancel_requested_at=ago(timedelta(seconds=1)))
    write(server, finish_of(job, result="1"))
    assert fresh(job).state == State.SUCCEEDED


def test_jobs_in_different_runs_of_theirs_succeed_in_one_batch(server):
    jobs = [make_running(lease_epoch=lease) for lease in (1, 7, 1, 2)]
    assert write(server, *[finish_of(job, result=str(job.lease_epoch)) for job in jobs]) == 4
    assert [fresh(job).result for job in jobs] == [1, 7, 1, 2]


def test_only_results_that_are_there_are_written(server):
    first, second, third = (make_running() for _ in range(3))
    write(server, finish_of(first, result='"x"'), finish_of(second), finish_of(third, result="null"))
    assert [fresh(job).result for job in (first, second, third)] == ["x", None, None]
    assert Job.objects.filter(result__isnull=True).count() == 2  # no JSON null among them


def test_a_batch_of_all_outcomes_takes_few_statements(server):
    jobs = [make_running() for _ in range(4)]
    states = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.SUCCEEDED)
    outcomes = (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED, Outcome.SUCCEEDED)
    batch = [finish_of(*facts) for facts in zip(jobs, outcomes, states, strict=True)]
    assert len(finish_statements(batch)) == 2
    assert write(server, *batch) == 4
    assert [fresh(job).state for job in jobs] == list(states)


@pytest.mark.parametrize(
    ("outcome", "state"), [(Outcome.SUCCEEDED, State.SUCCEEDED), (Outcome.FAILED, State.FAILED)]
)
def test_what_is_locked_may_be_left_out_of_a_batch(server, other, outcome, state):
    locked, free, late = make_running(), make_running(), make_running(lease_epoch=5)
    batch = [finish_of(job, outcome, state, result="1", entry=entry()) for job in (locked, free)]
    batch.append(finish_of(late, outcome, state, lease_epoch=4))
    with while_locked(locked, other, server):
        for statement, parameters in finish_statements(batch, skip_locked=True):
            server.execute(statement.sql, parameters)
    assert [fresh(job).state for job in (locked, free, late)] == [State.RUNNING, state, State.RUNNING]
    for statement, parameters in finish_statements(batch, skip_locked=True):
        server.execute(statement.sql, parameters)
    assert fresh(locked).state == state


def test_results_that_together_are_too_large_for_one_statement_go_in_several(server, monkeypatch):
    monkeypatch.setattr(finish, "RESULTS_AT_MOST", 400)
    jobs = [make_running() for _ in range(9)]
    batch = [finish_of(job, result=f'"{"x" * 150}"') for job in jobs]
    batch[4].result = f'"{"y" * 500}"'
    assert len(finish_statements(batch)) > 1
    assert write(server, *batch) == 9
    assert [len(fresh(job).result) for job in jobs] == [150] * 4 + [500] + [150] * 4


@pytest.mark.parametrize(
    "end", [{"outcome": Outcome.RELEASED, "started": False}, {"outcome": Outcome.POSTPONED, "entry": entry()}]
)
def test_a_claim_whose_run_never_began_is_no_start(server, end):
    job = make()
    (claimed,) = claim(server, claimer())
    write(server, finish_of(claimed, state=State.READY, costs_attempt=False, **end))
    assert fresh(job).started_at is None
    (claimed,) = claim(server, claimer())
    write(server, finish_of(claimed, outcome=Outcome.RELEASED, state=State.READY, costs_attempt=False))
    began_at = fresh(job).started_at
    assert began_at is not None
    (claimed,) = claim(server, claimer())
    write(server, finish_of(claimed, state=State.READY, costs_attempt=False, **end))
    assert fresh(job).started_at == began_at


def report(connection, *reports: Report) -> int:
    return connection.execute(REPORT.sql, report_parameters(reports), prepare=True).rowcount


def report_of(job, **facts) -> Report:
    nothing = {"lease_epoch": job.lease_epoch, "progress": None, "log_lines": None}
    return Report(id=str(job.id), **{**nothing, **facts})


def lines(*texts) -> str:
    return json.dumps([{"text": text} for text in texts])


def test_progress_and_lines_reach_their_jobs(server):
    first, second = make_running(), make_running()
    report(server, report_of(first, progress='{"done": 1}'), report_of(second, log_lines=lines("hello")))
    assert (fresh(first).progress, fresh(first).log) == ({"done": 1}, [])
    assert (fresh(second).progress, fresh(second).log) == (None, [{"text": "hello"}])


@pytest.mark.parametrize("facts", [{"progress": "{}"}, {"log_lines": lines("hello")}])
def test_a_report_notes_its_time(server, facts):
    job = make_running(reported_at=ago(HOUR))
    report(server, report_of(job, **facts))
    assert ago(HOUR) < fresh(job).reported_at


def test_the_last_hundred_lines_are_kept_in_order(server):
    job = make_running(log=[{"text": str(n)} for n in range(LOG_LINES_KEPT - 1)])
    report(server, report_of(job, log_lines=lines("a", "b", "c")))
    kept = [line["text"] for line in fresh(job).log]
    assert kept == [*map(str, range(2, LOG_LINES_KEPT - 1)), "a", "b", "c"]


@pytest.mark.parametrize("facts", [{"lease_epoch": 2}, {"state": State.SUCCEEDED}])
def test_a_report_of_a_run_that_is_over_changes_nothing(server, facts):
    job = make_running(**facts)
    said = report_of(job, lease_epoch=1, progress='{"done": 9}', log_lines=lines("late"))
    assert report(server, said) == 0
    assert (fresh(job).progress, fresh(job).log) == (None, [])


def test_a_locked_row_is_left_out_and_holds_up_nothing(server, other):
    locked, free = make_running(), make_running()
    with while_locked(locked, other, server):
        report(server, report_of(locked, progress="{}"), report_of(free, progress="{}"))
    assert (fresh(locked).progress, fresh(free).progress) == (None, {})
