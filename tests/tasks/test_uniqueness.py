"""Which calls make one job, and what the caller of a duplicate gets."""

from __future__ import annotations

import copy
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pgonly_django import enqueue_many, task
from pgonly_django.compat import InvalidTask, TaskResultStatus
from pgonly_django.exceptions import NotStorableError, OptionError
from pgonly_django.models import Job
from pgonly_django.models.job import State
from tests.queue.rows import HOUR, ago, fresh
from tests.tasks import calls
from tests.tasks.calls import add, any_number, backend, hourly, per_account_once, reindex, sync_account

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


def is_same(first, second):
    """Whether the second call got the job of the first one."""
    assert not first.is_duplicate
    assert second.is_duplicate == (first.id == second.id)
    return second.is_duplicate


def finish(result, state=State.SUCCEEDED):
    Job.objects.filter(pk=result.id).update(state=state, lease_epoch=1, finished_at=timezone.now())


# Which calls are the same.


@pytest.mark.parametrize(
    ("args", "kwargs", "same"),
    [
        ([1], {}, True),
        ([], {"account_id": 1}, True),
        ([1], {"full": False}, True),
        ([1, True], {}, False),
        ([2], {}, False),
        (["1"], {}, False),
        ([[1]], {}, False),
    ],
)
def test_unique_true_means_the_same_arguments_however_they_are_passed(args, kwargs, same):
    assert is_same(sync_account.enqueue(1), sync_account.enqueue(*args, **kwargs)) is same
    assert Job.objects.count() == (1 if same else 2)


def test_arguments_count_as_json_has_them():
    value = {"b": (1, 2), "a": {3: b"x"}}
    assert is_same(sync_account.enqueue(value), sync_account.enqueue({"a": {"3": "x"}, "b": [1, 2]}))


def test_an_argument_with_its_default_counts_as_not_given_also_where_the_default_is_no_json():
    odd = calls.odd_default.using(unique=True)
    assert is_same(odd.enqueue(1), odd.enqueue(1))
    assert not is_same(odd.enqueue(2), odd.enqueue(2, since=5))


def test_any_number_of_arguments_counts_whole():
    numbers = any_number.using(unique=True)
    assert is_same(numbers.enqueue(1, 2), numbers.enqueue(1, 2, unit="m"))
    assert not is_same(numbers.enqueue(), numbers.enqueue(1, 2, 3))


def test_a_list_of_names_leaves_the_other_arguments_out():
    first = per_account_once.enqueue(7, page=1)
    second = per_account_once.enqueue(7, page=2)
    assert is_same(first, second)
    assert second.args == [7]
    assert second.kwargs == {"page": 1}
    assert not is_same(first, per_account_once.enqueue(8, page=1))


def test_a_callable_says_which_calls_are_the_same_and_none_that_a_call_is_not_unique():
    by_tens = add.using(unique=lambda a, b=1: a // 10 if a else None)
    assert is_same(by_tens.enqueue(11), by_tens.enqueue(12))
    assert not is_same(by_tens.enqueue(0), by_tens.enqueue(0))
    assert Job.objects.filter(unique_key=None).count() == 2


@pytest.mark.parametrize("value", ["text", "", 7, 1.5, ["a", 1], {"a": {"b": None}}, "nul\0", "half \udc80"])
def test_a_callable_may_return_any_text_or_json(value):
    unique = add.using(unique=lambda a: value)
    assert is_same(unique.enqueue(1), unique.enqueue(2))


@pytest.mark.parametrize(("value", "error"), [(True, OptionError), (object(), NotStorableError)])
def test_a_callable_that_returns_something_else_is_an_error_and_writes_nothing(value, error):
    with pytest.raises(error, match=r"What unique= of add\(\) returned"):
        add.using(unique=lambda a: value).enqueue(1)
    assert not Job.objects.exists()


def test_an_error_of_the_callable_reaches_the_caller_and_the_transaction_stays_usable():
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError):
            add.using(unique=lambda a: 1 / a).enqueue(0)
        add.enqueue(1)
    assert Job.objects.count() == 1


def test_what_a_callable_does_to_the_arguments_changes_no_job():
    add.using(unique=lambda a: a.pop(), concurrency_key=lambda a: a.pop()).enqueue(["key"])
    row = Job.objects.get()
    assert (row.args, row.concurrency_key) == ([["key"]], "key")
    assert row.unique_key.startswith("add key #")


def test_another_task_with_the_same_arguments_is_another_job():
    assert not is_same(sync_account.enqueue(1), add.using(unique=True).enqueue(1))


def test_the_queue_makes_no_difference():
    assert is_same(sync_account.enqueue(1), sync_account.using(queue_name="other", priority=5).enqueue(1))
    assert Job.objects.get().queue == "default"


def test_tasks_are_hashable_whatever_form_the_names_have():
    named = add.using(unique=["a"])
    assert hash(named) == hash(add.using(unique=("a",)))
    assert hash(per_account_once) == hash(task(unique=("account_id",))(per_account_once.func))


# For how long.


@pytest.mark.parametrize(
    ("until", "excluding"),
    [
        ("waiting", {State.SCHEDULED, State.READY}),
        ("unfinished", {State.SCHEDULED, State.READY, State.RUNNING, State.HELD}),
        ("retained", set(State)),
    ],
)
@pytest.mark.parametrize("state", State)
def test_unique_while_says_in_which_states_a_job_excludes_others(until, excluding, state):
    unique = sync_account.using(unique_while=until)
    first = unique.enqueue(1)
    is_waiting = state in (State.SCHEDULED, State.READY)
    Job.objects.update(
        state=state,
        lease_epoch=0 if is_waiting else 1,
        run_at=ago(-HOUR),
        worker_id=None if is_waiting else "00000000-0000-7000-8000-000000000001",
        lease_expires_at=ago(-HOUR),
    )
    assert is_same(first, unique.enqueue(1)) is (state in excluding)


@pytest.mark.parametrize("state", [State.READY, State.SCHEDULED, State.HELD])
def test_a_job_that_was_claimed_does_not_get_its_waiting_key_back(state):
    unique = sync_account.using(unique_while="waiting")
    first = unique.enqueue(1)
    Job.objects.update(state=state, lease_epoch=1, run_at=ago(-HOUR))
    assert not is_same(first, unique.enqueue(1))


def test_a_held_job_that_was_never_claimed_is_still_waiting():
    unique = sync_account.using(unique_while="waiting")
    first = unique.enqueue(1)
    Job.objects.hold()
    assert is_same(first, unique.enqueue(1))
    assert Job.objects.resume() == 1


def test_unique_for_lets_one_job_through_per_period_however_soon_it_ends():
    first = hourly.enqueue(1)
    finish(first)
    assert is_same(first, hourly.enqueue(1))
    until = Job.objects.get().unique_until
    assert until - Job.objects.get().enqueued_at == HOUR, "the period is exact"


@pytest.mark.parametrize(("over", "same"), [(timedelta(milliseconds=1), False), (-MINUTE, True)])
def test_a_period_ends_exactly(over, same):
    first = hourly.enqueue(1)
    Job.objects.update(unique_until=ago(over))
    assert is_same(first, hourly.enqueue(1)) is same


def test_the_next_period_begins_with_the_next_call():
    first = hourly.enqueue(1)
    Job.objects.update(unique_until=ago(MINUTE))
    second = hourly.enqueue(1)
    assert not is_same(first, second)
    assert is_same(second, hourly.enqueue(1))
    assert fresh(first.job).unique_key is None


def test_a_row_is_kept_for_at_least_its_period():
    hourly.using(retention=MINUTE).enqueue(1)
    hourly.using(unique_for=timedelta(days=30)).enqueue(2)
    hourly.using(retention=None).enqueue(3)
    hourly.using(unique_while="unfinished", retention=MINUTE).enqueue(4)
    kept = Job.objects.order_by("id").values_list("retention", flat=True)
    assert list(kept) == [HOUR, timedelta(days=30), None, MINUTE]


def test_unique_false_takes_uniqueness_away():
    assert not is_same(hourly.using(unique=False).enqueue(1), hourly.using(unique=False).enqueue(1))
    assert set(Job.objects.values_list("retention", flat=True)) == {timedelta(days=7)}


# Idempotency keys.


@pytest.mark.parametrize(
    "key",
    ["evt_1", "e" * 100_000, "nul\0", "half \udc80", "🎈%s %(id)s {x} '\"\\\t\n", " ", "add evt_1 #abc"],
)
def test_an_idempotency_key_may_be_any_text(key):
    first = add.using(idempotency_key=key).enqueue(1)
    finish(first, State.FAILED)
    assert is_same(first, add.using(idempotency_key=key).enqueue(2))
    assert not is_same(first, add.using(idempotency_key=key + "x").enqueue(3))
    assert not is_same(first, sync_account.using(idempotency_key=key).enqueue(1))


def test_an_idempotency_key_wins_over_what_the_task_says():
    first = hourly.using(idempotency_key="a").enqueue(1)
    assert not is_same(first, hourly.using(idempotency_key="b").enqueue(1))
    assert set(Job.objects.values_list("unique_until", flat=True)) == {None}


@pytest.mark.parametrize("wrong", ["", 5, b"evt", True])
def test_an_idempotency_key_must_be_text(wrong):
    with pytest.raises(OptionError, match=r"add.using\(\): idempotency_key must be a str that is not empty"):
        add.using(idempotency_key=wrong)


def test_an_idempotency_key_and_metadata_belong_to_one_call():
    with pytest.raises(InvalidTask, match=r"idempotency_key belongs to one call. Set it there: .using\("):
        task(idempotency_key="x")(calls.linear)
    with pytest.raises(InvalidTask, match=r"metadata belongs to one call.*\.using\(metadata="):
        task(metadata={"a": 1})(calls.linear)
    with pytest.raises(OptionError, match="Did you mean 'idempotency_key'"):
        add.using(idempotency_kye="x")


# What is refused.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"unique": ["atempt"]}, r"unique: linear\(\) has no argument 'atempt'. Did you mean 'attempt'"),
        ({"unique": "attempt"}, "unique must be True, False, a list of argument names"),
        ({"unique_for": 60}, "unique_for must be a positive timedelta"),
        ({"unique_while": "running"}, "unique_while must be one of .'waiting', 'unfinished', 'retained'"),
        ({"debounce": MINUTE, "unique_while": "retained"}, "unique_while must be 'waiting' or left out"),
        ({"debounce": MINUTE, "unique": False}, "unique must not be False"),
        ({"concurrency_key": "attempt"}, "is the same for all calls. For the argument write '{attempt}'"),
    ],
)
def test_options_that_cannot_be_are_refused_where_they_are_declared(options, says):
    with pytest.raises(InvalidTask, match=says):
        task(**options)(calls.linear)


def test_debounce_and_an_idempotency_key_exclude_each_other():
    with pytest.raises(InvalidTask, match="exclude each other"):
        reindex.using(idempotency_key="x")
    reindex.using(idempotency_key="x", debounce=None).enqueue(1)


# The result of a duplicate.


def test_a_duplicate_is_the_result_of_the_job_that_is_there():
    first = sync_account.using(queue_name="slow").enqueue(1)
    Job.objects.update(
        state=State.RUNNING, lease_epoch=1, attempt=1, worker_id=first.id, lease_expires_at=ago(-HOUR)
    )
    second = sync_account.enqueue(1)
    assert (second.id, second.args, second.enqueued_at) == (first.id, [1], first.enqueued_at)
    assert (second.status, second.attempts) == (TaskResultStatus.RUNNING, 1)
    assert (second.task.queue_name, second.task.func) == ("slow", sync_account.func)
    assert second.job == first.job


def test_a_duplicate_stays_one_and_works_like_any_result():
    first, second = sync_account.enqueue(1), sync_account.enqueue(1)
    Job.objects.update(state=State.SUCCEEDED, result=5)
    assert second.wait(1).return_value == 5
    assert second.is_duplicate
    assert copy.copy(second).is_duplicate
    assert not backend().get_result(first.id).is_duplicate


@pytest.mark.django_db(transaction=True)
def test_a_duplicate_is_not_announced(announced):
    first = sync_account.enqueue(1)
    sync_account.enqueue(1)
    enqueue_many([(sync_account, [1]), (sync_account, [2])])
    reindex.enqueue(1)
    reindex.enqueue(1)
    assert announced[0].id == first.id
    assert len(announced) == len({each.id for each in announced}) == 3


def test_another_backend_ignores_the_options(settings):
    settings.TASKS = {**settings.TASKS, "dummy": {"BACKEND": calls.DUMMY}}
    elsewhere = reindex.using(backend="dummy")
    assert elsewhere.enqueue(7).id != elsewhere.enqueue(7).id
    assert not Job.objects.exists()


def test_the_winner_may_be_of_another_backend(settings):
    settings.TASKS = {"default": settings.TASKS["default"], "second": settings.TASKS["default"]}
    first = sync_account.using(backend="second").enqueue(1)
    second = sync_account.enqueue(1)
    assert is_same(first, second)
    assert second.backend == "second"
    second.refresh()
    assert second.is_duplicate


def test_djangos_own_decorator_takes_the_options_where_it_passes_them_on():
    try:
        unique = calls.djangos_task(unique=["a"])(add.func)
    except TypeError:
        pytest.skip("this Django passes no options on")
    assert is_same(unique.enqueue(1, b=1), unique.enqueue(1, b=2))


# Statements.


def test_a_new_unique_job_is_one_statement_and_a_duplicate_two():
    with CaptureQueriesContext(connection) as queries:
        sync_account.enqueue(1)
    assert len(queries) == 1
    with CaptureQueriesContext(connection) as queries:
        sync_account.enqueue(1)
    assert len(queries) == 2


def test_a_unique_job_has_all_columns_of_its_task():
    later = timezone.now() + HOUR
    options = {"max_runtime": MINUTE, "retention": HOUR, "max_attempts": 9, "atomic": True}
    unique = per_account_once.using(
        **options, priority=3, queue_name="50 % \\ {x}", run_after=later, concurrency_key="a:{account_id}"
    )
    unique.enqueue("tab\t \\ 🎈", page={"a": 1e300})
    unique.using(unique=False).enqueue("tab\t \\ 🎈", page={"a": 1e300})
    one, other = (
        {name: value for name, value in row.items() if name not in OWN}
        for row in Job.objects.order_by("id").values()
    )
    assert one == other
    assert (one["run_at"], one["state"], one["concurrency_key"]) == (later, State.SCHEDULED, "a:tab\t \\ 🎈")


OWN = ("id", "ready_at", "enqueued_at", "unique_key", "unique_while", "unique_until")
