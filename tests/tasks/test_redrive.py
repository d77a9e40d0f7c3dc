from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from django.core.management import call_command
from django.db import transaction
from django.utils import timezone

from pgonly_django import redrive
from pgonly_django.exceptions import NotStorableError, WrongArgumentsError
from pgonly_django.models import Job, State
from pgonly_django.tasks.registry import UnknownTaskError
from tests.jobs import redriving
from tests.queue.rows import fresh, insert_jobs, lock, make
from tests.sql import sql
from tests.waiting import beside, wait_for

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = timedelta(hours=1)


def fail(result, exception="builtins.ValueError"):
    Job.objects.filter(pk=result.id).update(
        state=State.FAILED,
        attempt=4,
        lease_epoch=4,
        crashes=1,
        finished_at=timezone.now(),
        delete_after=timezone.now() + HOUR,
        dead_lettered_at=timezone.now(),
        errors=[{"outcome": "failed", "exception": exception, "message": "x"}],
    )
    return result


def failed(*args, task=redriving.screen, **kwargs):
    return fail(task.enqueue(*args, **kwargs)).job


def failed_rows(count, **columns):
    values = {"state": "'failed'", "task": "'tests.jobs.add'", "finished_at": "clock_timestamp()", **columns}
    sql(insert_jobs(f"generate_series(1, {count}) AS n", **values))


def test_failed_jobs_are_ready_again_with_all_their_attempts():
    job = failed(1)
    assert redrive(Job.objects.all()).jobs == 1
    again = fresh(job)
    assert (again.state, again.attempt, again.crashes, again.args) == (State.READY, 0, 0, [1])
    assert again.finished_at is again.delete_after is again.dead_lettered_at is again.result is None
    assert again.errors == job.errors, "its history stays"


@pytest.mark.parametrize("state", [State.READY, State.SUCCEEDED, State.CANCELLED, State.HELD])
def test_jobs_in_other_states_are_left_alone(state):
    job = make(state=state, held_by="x" if state == State.HELD else None)
    assert redrive(Job.objects.all()).jobs == 0
    assert fresh(job).state == state


def test_the_last_error_chooses_what_is_redriven():
    value, key = failed(1), fail(redriving.screen.enqueue(2), "tests.jobs.policies.RateLimitedError").job
    assert set(Job.objects.failed_with(ValueError)) == {value}
    assert set(Job.objects.failed_with("ValueError")) == {value}
    assert set(Job.objects.failed_with("tests.jobs.policies.RateLimitedError")) == {key}
    assert set(Job.objects.failed_with("RateLimitedError")) == {key}
    assert set(Job.objects.failed_with("LimitedError")) == set()
    assert redrive(Job.objects.failed_with(ValueError)).jobs == 1
    assert fresh(key).state == State.FAILED


def test_they_start_evenly_over_time():
    jobs = [failed(number) for number in range(5)]
    assert redrive(Job.objects.all(), per_minute=30).jobs == 5
    rows = [fresh(job) for job in jobs]
    assert [row.state for row in rows] == [State.READY] + [State.SCHEDULED] * 4
    base = rows[0].ready_at
    delays = [round((row.run_at - base).total_seconds(), 1) for row in rows[1:]]
    assert delays == [2.0, 4.0, 6.0, 8.0]


def test_the_spread_goes_on_over_the_batches():
    failed_rows(2500)
    done = redrive(Job.objects.all(), per_minute=6000)
    assert (done.jobs, done.left) == (2500, 0)
    last = Job.objects.filter(state=State.SCHEDULED).order_by("-run_at").first()
    assert timedelta(seconds=20) < last.run_at - timezone.now() <= timedelta(seconds=25)


@pytest.mark.parametrize("per_minute", [0, -1, float("nan"), float("inf"), "10", True])
def test_a_rate_that_is_none_is_refused(per_minute):
    with pytest.raises(WrongArgumentsError, match="per_minute must be a number above 0, got"):
        redrive(Job.objects.all(), per_minute=per_minute)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: failed(1), ([1], {"model": "new"})),
        (lambda: failed(1, "old"), ([1, "new"], {})),
        (lambda: failed(1, model="old"), ([1], {"model": "new"})),
        (lambda: failed(project_id=1, model="old"), ([], {"project_id": 1, "model": "new"})),
        (lambda: failed(1, task=redriving.by_place), ([1, "default", "new"], {})),
        (lambda: failed(1, task=redriving.by_keyword, model="old"), ([1], {"model": "new"})),
        (lambda: failed(1, 2, 3, task=redriving.any_keyword), ([1, 2, 3], {"model": "new"})),
    ],
)
def test_an_argument_is_changed_and_each_stays_passed_as_it_was(call, expected):
    job = call()
    assert redrive(Job.objects.all(), arguments={"model": "new"}).jobs == 1
    again = fresh(job)
    assert (again.args, again.kwargs) == expected


def test_a_redriven_job_runs_with_the_new_argument():
    job = failed(1, "old")
    redrive(Job.objects.all(), arguments={"model": "new"})
    call_command("runworker", burst=True)
    assert fresh(job).result == [1, "new"]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"modle": 1}, WrongArgumentsError, "it has no argument 'modle'; did you mean 'model'\\?$"),
        ({"x": 1}, WrongArgumentsError, "it has no argument 'x'; it takes project_id, model"),
        ({"model": object()}, NotStorableError, "Argument 'model' of screen"),
        ({"model": float("nan")}, NotStorableError, "Argument 'model' of screen"),
        ({"model": "\0"}, NotStorableError, "NUL"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_written(arguments, error, says):
    job = failed(1)
    with pytest.raises(error, match=says):
        redrive(Job.objects.all(), arguments=arguments)
    assert fresh(job).state == State.FAILED


def test_new_arguments_for_a_task_that_is_gone_are_refused():
    make(state=State.FAILED, task="tests.jobs.gone")
    with pytest.raises(UnknownTaskError, match="gone"):
        redrive(Job.objects.all(), arguments={"model": 1})
    assert redrive(Job.objects.all()).jobs == 1, "as they are they may wait for its code"


def test_a_row_whose_own_arguments_do_not_fit_any_more_is_left_and_named():
    odd = make(state=State.FAILED, task="tests.jobs.redriving.screen", args=[])
    job = failed(1)
    done = redrive(Job.objects.all(), arguments={"model": "new"})
    assert (done.jobs, done.left) == (1, 1)
    assert "missing a required argument: 'project_id'" in done.reasons[str(odd.pk)]
    assert fresh(job).state == State.READY


def test_a_job_whose_unique_key_another_one_has_is_left_and_named():
    old = failed(1, task=redriving.unique)
    other = failed(2, task=redriving.unique)
    redriving.unique.enqueue(1)
    done = redrive(Job.objects.all())
    assert (done.jobs, done.left) == (1, 1)
    assert done.reasons == {str(old.pk): "Another job has its unique_key by now."}
    assert (fresh(old).state, fresh(other).state) == (State.FAILED, State.READY)


def test_of_several_failed_ones_with_one_key_the_newest_runs_again():
    jobs = [failed(1, task=redriving.unique) for _ in range(3)]
    done = redrive(Job.objects.all())
    assert (done.jobs, done.left) == (1, 2)
    assert [fresh(job).state for job in jobs] == [State.FAILED, State.FAILED, State.READY]


def test_keys_that_have_ended_with_the_first_claim_leave_no_job_out():
    waiting = redriving.unique.using(unique_while="waiting")
    jobs = [failed(1, task=waiting) for _ in range(3)]
    done = redrive(Job.objects.all())
    assert (done.jobs, done.left) == (3, 0)
    assert {fresh(job).state for job in jobs} == {State.READY}


def test_a_key_that_is_taken_after_the_look_at_it_leaves_that_job_alone():
    from pgonly_django.queue.failed_jobs import Again, redrive_batch

    old, other = failed(1, task=redriving.unique), failed(2, task=redriving.unique)
    redriving.unique.enqueue(1)
    with transaction.atomic():
        assert redrive_batch("default", [Again(str(old.pk), 0), Again(str(other.pk), 0)]) == [str(other.pk)]


def test_keys_that_follow_from_the_arguments_follow_the_new_ones():
    job = failed(1, task=redriving.unique)
    taken = redriving.unique.enqueue(7)
    done = redrive(Job.objects.filter(pk=job.pk), arguments={"number": 7})
    assert (done.jobs, done.left) == (0, 1), "the new key is taken"
    Job.objects.filter(pk=taken.id).delete()
    redrive(Job.objects.filter(pk=job.pk), arguments={"number": 7})
    again = fresh(job)
    assert again.concurrency_key == "account:7"
    assert again.unique_key != job.unique_key
    assert redriving.unique.enqueue(7).id == str(job.pk)


def test_a_callable_sees_the_call_as_it_was_made():
    job = failed(user="a", task=redriving.by_user)
    redrive(Job.objects.all(), arguments={"note": "new"})
    again = fresh(job)
    assert (again.kwargs, again.concurrency_key) == ({"user": "a", "note": "new"}, "a")
    assert redriving.by_user.enqueue(user="a").id == str(job.pk)


def test_a_job_without_keys_gets_those_of_its_new_arguments():
    job = failed(user="staff", task=redriving.by_user)
    assert job.unique_key is job.concurrency_key is job.slots is None
    redrive(Job.objects.all(), arguments={"user": "a"})
    again = fresh(job)
    assert (again.concurrency_key, again.concurrency_limit, again.slots) == ("a", 3, 1)
    assert redriving.by_user.enqueue(user="a").id == str(job.pk)


def test_a_job_whose_new_arguments_make_no_keys_gives_up_its_own():
    job = failed(user="a", task=redriving.by_user)
    redrive(Job.objects.all(), arguments={"user": "staff"})
    again = fresh(job)
    assert again.unique_key is again.concurrency_key is again.slots is None
    other = redriving.by_user.enqueue(user="a")
    assert not other.is_duplicate, "the key that it had is free"


def test_the_period_of_a_new_key_counts_from_the_enqueue():
    job = failed(1, task=redriving.unique.using(unique_for=HOUR))
    redrive(Job.objects.all(), arguments={"number": 7})
    assert fresh(job).unique_until == job.unique_until
    plain = failed(1, task=redriving.hourly)
    redrive(Job.objects.filter(pk=plain.pk), arguments={"number": 7})
    again = fresh(plain)
    assert (again.unique_while, again.unique_until) == ("retained", plain.enqueued_at + HOUR)
    assert redriving.hourly.enqueue(7).id == str(plain.pk)


def test_a_key_of_this_job_alone_stays():
    job = failed(1, task=redriving.unique.using(idempotency_key="evt_1"))
    redrive(Job.objects.all(), arguments={"number": 7})
    assert fresh(job).unique_key == job.unique_key


@pytest.mark.slow
def test_a_hundred_thousand_hold_no_lock_for_long(other):
    failed_rows(20_000)

    def watch():
        with other.transaction():
            return other.execute("SELECT count(*) FROM pgonly_job WHERE state <> 'failed'").fetchone()[0]

    with beside(redrive, Job.objects.all()) as done:
        committed = wait_for(watch, what="a first batch")
    assert committed < 20_000, "others see the first batches before the last"
    assert done[0].jobs == 20_000


def test_two_at_once_redrive_each_job_once():
    failed_rows(3000)
    run = partial(redrive, Job.objects.all(), per_minute=60)
    with beside(run) as first, beside(run) as second, beside(run) as third:
        pass
    assert sum(done.jobs for done in (*first, *second, *third)) == 3000
    assert not Job.objects.failed().exists()


def test_a_locked_row_is_left_to_the_one_that_has_it(other):
    locked, free = failed(1), failed(2)
    with other.transaction():
        lock(other, locked)
        assert redrive(Job.objects.all()).jobs == 1
    assert (fresh(locked).state, fresh(free).state) == (State.FAILED, State.READY)


def test_a_transaction_of_the_caller_takes_it_back():
    job = failed(1)
    with transaction.atomic():
        redrive(Job.objects.all())
        transaction.set_rollback(True)
    assert fresh(job).state == State.FAILED


def test_slices_and_distinct_querysets_are_taken():
    jobs = [failed(number) for number in range(4)]
    assert redrive(Job.objects.order_by("pk")[:2]).jobs == 2
    assert [fresh(job).state for job in jobs[:2]] == [State.READY] * 2
    assert redrive(Job.objects.distinct()).jobs == 2


def test_workers_are_woken(other):
    failed(1), failed(2)
    other.execute("LISTEN pgonly_jobs")
    redrive(Job.objects.all(), per_minute=1)
    heard = {notify.payload for notify in other.notifies(timeout=10, stop_after=2)}
    assert heard == {"ready *", "due"}


def test_it_takes_back_what_retry_takes_back():
    jobs = [failed(1), failed(1)]
    Job.objects.filter(pk__in=[job.pk for job in jobs]).update(
        cancel_requested_at=timezone.now(), result=[1], held_by="odd", progress={"done": 1}, interruptions=2
    )
    Job.objects.filter(pk=jobs[0].pk).retry()
    redrive(Job.objects.filter(pk=jobs[1].pk))
    of_each = {"id", "ready_at", "enqueued_at"}
    names = [each.attname for each in Job._meta.fields if each.attname not in of_each]
    retried, redriven = (Job.objects.values(*names).get(pk=job.pk) for job in jobs)
    assert retried == redriven
