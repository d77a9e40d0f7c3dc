from __future__ import annotations

import asyncio
from unittest import mock

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User
from django.core.cache import caches
from django.db import connection, transaction

from pgonly_django import task
from pgonly_django.models import CacheLock, DurableCacheEntry, Job, LimiterSlot, Step
from pgonly_django.testing import NotResumableError, NotTestableError, assert_resumable, fake_limits
from pgonly_django.testing.resumable import _chosen
from tests.docs.assumed import DUMMY
from tests.testing import broken_jobs
from tests.testing import resumable_jobs as jobs
from tests.testing.conftest import both


@pytest.fixture
def prepared():
    return User.objects.create(username="u", last_name="prepared")


def why_not(job, *args, **options):
    with pytest.raises(NotResumableError) as found:
        assert_resumable(job, *args, **options)
    return str(found.value)


def why_not_testable(job, *args, **options):
    with pytest.raises(NotTestableError) as found:
        assert_resumable(job, *args, **options)
    return str(found.value)


@task(takes_context=True)
def of_this_test_module(context):
    return context.step("pay", int, 1)


@pytest.mark.sample(2)
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("job", "said"), [pytest.param(*each, id=each[0].func.__name__) for each in broken_jobs.TWENTY]
)
def test_a_job_that_a_kill_breaks_is_found(prepared, job, said):
    before = list(Group.objects.values()), list(DurableCacheEntry.objects.values())
    with pytest.raises(AssertionError) as found:
        report = assert_resumable(
            job, paid=["tests.testing.broken_jobs.pay"] if "outside" in job.name else ()
        )
        pytest.fail(f"It was taken for resumable: {report}. Before it there were {before}.")
    assert said in str(found.value)


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    "job",
    [
        jobs.resumes, jobs.aresumes, jobs.writes_with_its_end, jobs.writes_each_item_with_its_mark,
        jobs.enqueues_once, jobs.does_all_in_one_transaction, jobs.iterates_in_order,
        jobs.pays_within_a_step, jobs.waits_and_retries, jobs.pays_side_by_side,
    ],
    ids=lambda job: job.func.__name__,
)  # fmt: skip
def test_a_job_that_resumes_passes_and_nothing_of_it_is_left(where, job):
    assert assert_resumable(job).killed_at
    for model in (Job, Step, User, Group, DurableCacheEntry):
        assert not model.objects.exists()
    assert not connection.in_atomic_block or where == "in a TestCase"


@pytest.mark.slow
@both
def test_the_report_says_where_it_was_killed(where):
    caches["answers"].set("key", 1)
    report = assert_resumable(jobs.resumes)
    one = [
        "between the call of step 'pay {0}' and its save",
        "right after step 'pay {0}' was saved",
        "right after INSERT INTO auth_group was committed",
        "right before position {1} of the loop 'items' was saved",
        "right after position {1} of the loop 'items' was saved",
    ]
    last = "right before its end was written, when its function had returned"
    behind = ", with {} of a loop done since its position was saved"
    assert report.places == (
        *(each.format(0, 1) for each in one),
        *(each.format(1, 2) for each in one),
        last,
        *(each.format(1, 2) + behind.format("1 item") for each in one[:3]),
        one[3].format(1, 2) + behind.format("2 items"),
    )
    assert report.killed_at == tuple(range(1, 16))
    assert report.calls == {"step 'pay 0'": 1, "step 'pay 1'": 1}
    assert report.not_compared == ()
    assert caches["answers"].get("key") == 1


# What happens to a run that is killed.


def test_what_a_finally_block_would_write_is_not_written(db):
    said = why_not(jobs.releases_its_mark_in_a_finally_block, kill_at=2)
    assert "between the call of step 'pay' and its save" in said
    assert "result is 'busy' instead of 'done'." in said


def test_a_run_that_swallows_its_kill_writes_nothing_more(db):
    """Else the groups and the entry "failed" were there."""
    report = assert_resumable(jobs.goes_on_after_everything, kill_at=1)
    assert report.places[0] == "right after an entry of the cache was written"


@pytest.mark.slow
@both
def test_what_a_killed_run_held_does_not_delay_the_next(where, declared):
    declared(**{"one at a time": {"concurrent": 1}})
    report = assert_resumable(jobs.holds_what_others_wait_for)
    assert report.calls == {"step 'pay'": 1, "step 'compute'": 1}
    assert not LimiterSlot.objects.exclude(holder=None).exists()
    assert not CacheLock.objects.exists()


def test_state_in_memory_survives_unless_setup_resets_it(db):
    assert assert_resumable(jobs.forgets_nothing_in_this_process).not_compared == ("result",)
    said = why_not(jobs.forgets_nothing_in_this_process, setup=jobs.REMEMBERED.clear)
    assert "result is 0 instead of 1." in said


# What is compared.


def test_a_function_in_paid_that_a_step_calls_may_be_repeated_with_it(db):
    def pay(number):
        return number

    with mock.patch.object(jobs, "pay", pay):
        report = assert_resumable(jobs.enqueues_once, paid=["tests.testing.resumable_jobs.pay"])
    assert report.calls == {"step 'pay'": 1, "tests.testing.resumable_jobs.pay()": 1}


def test_a_payment_outside_of_a_step_is_counted_where_it_is_named(db):
    assert assert_resumable(broken_jobs.pays_outside_of_a_step).calls == {}
    said = why_not(broken_jobs.pays_outside_of_a_step, paid=["tests.testing.broken_jobs.pay"])
    assert "right after tests.testing.broken_jobs.pay() had returned (place 1 of 4)" in said
    assert "tests.testing.broken_jobs.pay() was called twice instead of once: it was paid twice." in said


def test_what_is_ignored_is_not_compared(db, prepared):
    assert assert_resumable(broken_jobs.enqueues_before_a_step, ignore=["jobs"])
    assert assert_resumable(broken_jobs.adds_to_a_row, ignore=["auth.User.first_name"])
    assert assert_resumable(broken_jobs.adds_to_a_row, ignore=[User])
    assert assert_resumable(broken_jobs.keeps_its_sum_in_memory, ignore=["result"])
    assert assert_resumable(broken_jobs.counts_in_the_cache_beside_its_transaction, ignore=["cache"])


def test_what_is_kept_outside_of_the_database_is_found_without_a_kill(db, tmp_path):
    said = why_not_testable(jobs.keeps_what_it_paid_for_in_a_file, str(tmp_path / "answer"))
    assert "Two runs of " in said
    assert "step 'pay' was called never instead of once. Something outside of the database was kept" in said


def test_what_differs_without_a_kill_is_not_compared(db, prepared):
    report = assert_resumable(jobs.unsteady, max_kills=5)
    expected = ("auth.User.email", "auth.User.last_login", "auth.User.username", "result.at")
    assert set(expected) <= set(report.not_compared) <= {*expected, "auth.User.date_joined"}


def test_state_takes_the_place_of_the_rows(db, prepared):
    seen = []

    def state():
        seen.append(jobs.only_test_user().first_name)
        return seen[-1]

    said = why_not(broken_jobs.adds_to_a_row, kill_at=1, state=state)
    assert said.endswith("* state() is '++' instead of '+'.")
    assert seen == ["+", "+", "++"]
    assert jobs.only_test_user().first_name == ""
    assert_resumable(broken_jobs.adds_to_a_row, kill_at=1, state=Group.objects.count)


def test_a_job_that_fails_without_a_kill_is_shown_with_its_traceback(db):
    said = why_not_testable(jobs.fails.using(max_attempts=1))
    assert "without a kill, ended as failed. " in said
    assert "ValueError: no such paper" in said


# Where and how it is called.


def test_other_jobs_of_the_test_do_not_run_and_its_rows_stay(db, prepared):
    other = jobs.fails.enqueue()
    assert_resumable(of_this_test_module)
    other.refresh()
    assert other.job.state == "ready"
    assert User.objects.get() == prepared


def test_mocks_and_fakes_of_the_test_reach_the_job(db):
    with fake_limits() as limits, mock.patch.object(jobs, "pay", lambda number: number * 7):
        report = assert_resumable(jobs.resumes, 1)
    assert report.calls == {"step 'pay 0'": 1}
    assert limits.uses == []


def test_an_error_for_the_test_run_ends_it(db):
    with mock.patch.object(jobs, "pay", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        assert_resumable(jobs.resumes, 1)
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_async_test_calls_it_in_the_thread_of_its_connection():
    def call():
        assert_resumable(of_this_test_module)
        connection.close()

    asyncio.run(sync_to_async(call)())


def test_inside_atomic_of_the_test_it_leaves_the_transaction_as_it_was(db):
    with transaction.atomic():
        Group.objects.create(name="mine")
        assert_resumable(jobs.resumes, 1)
        assert not connection.needs_rollback
    assert Group.objects.get().name == "mine"


def test_another_backend_is_refused(settings, db):
    settings.TASKS = {**settings.TASKS, "dummy": DUMMY["default"]}
    assert "go to DummyBackend here" in why_not_testable(jobs.resumes.using(backend="dummy"), 1)


def test_without_the_database_it_is_refused():
    with pytest.raises(RuntimeError, match="django_db"):
        assert_resumable(of_this_test_module)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"ignore": ["auth.Usr"]}, ValueError, "ignore takes models"),
        ({"ignore": ["auth.User.nme"]}, ValueError, "no field named 'nme'"),
        ({"kill_at": [0]}, NotTestableError, "kill_at names place 0"),
        ({"kill_at": 9}, NotTestableError, "kill_at names place 9, and the job has 3"),
        ({"max_kills": 0}, ValueError, "max_kills must be 1 or more"),
        ({"paid": ["tests.nowhere.pay"]}, ValueError, "there is no 'tests.nowhere.pay'"),
        ({"paid": "tests.jobs.add"}, TypeError, r"paid must be a list, .* give \['tests.jobs.add'\]"),
        ({"ignore": "auth.User"}, TypeError, "ignore must be a list"),
        ({"paid": [lambda: None]}, ValueError, "there is no '.*<lambda>'"),
    ],
)
def test_a_wrong_option_is_refused_with_what_to_do(options, error, said):
    with pytest.raises(error, match=said):
        assert_resumable(of_this_test_module, **options)


def test_of_many_places_as_many_as_wanted_are_chosen_evenly():
    assert _chosen([], 3, 4) == [1, 2, 3]
    assert _chosen([], 10, 4) == [1, 4, 7, 10]
    assert _chosen([], 10, 1) == [1]
    assert _chosen([2, 5], 10, 4) == [2, 5]
