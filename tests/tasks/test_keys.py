from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from pgonly_django import enqueue_many, task
from pgonly_django.compat import InvalidTask
from pgonly_django.exceptions import OptionError, WrongArgumentsError
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.tasks.arguments import CallSignature
from pgonly_django.tasks.keys import KEY_LENGTH, key_function, stored_key
from tests.tasks import calls
from tests.tasks.calls import add, heavy, per_account, per_account_by_function

pytestmark = pytest.mark.django_db


def sync(context, account_id, region="eu", **extra): ...


def only_two(account_id, region): ...


def key(rule, *args, of=sync, **kwargs):
    signature = CallSignature(of, takes_context=of is sync)
    return key_function("concurrency_key", rule, signature)(list(args), kwargs)


def test_a_template_is_filled_with_the_arguments_however_they_are_passed():
    assert key("account:{account_id}", 7) == "account:7"
    assert key("account:{account_id}", account_id=7) == "account:7"
    assert key("{region}/{account_id}", 7) == "eu/7"
    assert key("all", 7) == "all"


def test_a_template_may_look_into_an_argument_and_use_named_extras():
    assert key("{account_id[id]}", {"id": 3}) == "3"
    assert key("{tenant}", 7, tenant="acme") == "acme"


def test_a_callable_gets_the_arguments_as_they_are_passed():
    assert key(lambda account_id, region="us": f"{region}{account_id}", 7) == "us7"
    assert key(lambda account_id: None, 7) is None


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("{acount_id}", r"only_two\(\) has no argument 'acount_id'. Did you mean 'account_id'"),
        ("{x}", "Its arguments: account_id, region"),
        ("{}", "give each field the name of an argument"),
        ("{0}", "give each field the name of an argument"),
        ("{account_id", "is not a template"),
    ],
)
def test_a_template_that_fits_no_call_is_refused(rule, says):
    with pytest.raises(OptionError, match=says):
        key(rule, 1, 2, of=only_two)


def test_a_call_that_a_template_does_not_fit_is_refused_with_the_reason():
    with pytest.raises(
        WrongArgumentsError, match=r"account_id\[id\].* has no value for them: KeyError: 'id'"
    ):
        key("{account_id[id]}", {})
    with pytest.raises(WrongArgumentsError, match="KeyError: 'tenant'"):
        key("{tenant}", 7)


def test_a_key_is_stored_as_it_is_where_the_column_can_hold_it():
    assert stored_key("account:7") == "account:7"
    assert stored_key("ä" * KEY_LENGTH) == "ä" * KEY_LENGTH


@pytest.mark.parametrize(
    "long", ["", "a" * (KEY_LENGTH + 1), "nul\0", "half \udc80", "x #sha256:y", "🎈" * 10_000]
)
def test_any_other_key_is_stored_as_its_head_and_a_hash(long):
    stored = stored_key(long)
    assert len(stored) <= KEY_LENGTH
    assert "\0" not in stored
    assert stored.encode()
    assert stored != stored_key(long + "a")
    assert stored == stored_key(long)
    assert stored_key(stored) != stored, "no key of a caller may be that of another"


def limits():
    return list(Job.objects.order_by("id").values_list("concurrency_key", "concurrency_limit", "slots"))


def test_the_columns_of_a_call_follow_from_its_arguments():
    per_account.enqueue(7)
    per_account.enqueue(account_id=8, page=2)
    heavy.enqueue()
    add.enqueue(1)
    expected = [("account:7", 2, 1), ("account:8", 2, 1), (None, None, 4), (None, None, None)]
    assert limits() == expected
    Job.objects.all().delete()
    enqueue_many([(per_account, [7]), (per_account, [8, 2]), (heavy, []), (add, [1])])
    assert limits() == expected


def test_a_call_without_a_key_is_not_limited():
    per_account_by_function.enqueue(0)
    per_account_by_function.enqueue(3)
    assert limits() == [(None, None, None), ("3", 1, 1)]


def test_using_sets_and_takes_away_what_the_task_declares():
    per_account.using(concurrency_key=None).enqueue(7)
    per_account.using(concurrency_limit=5, slots=2).enqueue(7)
    add.using(concurrency_key="{b}").enqueue(1)
    assert limits() == [(None, None, None), ("account:7", 5, 2), ("1", 1, 1)]


def test_defaults_of_a_queue_hold_for_its_tasks(settings):
    options = {"queues": {"ai": {"concurrency_key": "a:{a}"}}}
    settings.TASKS = {"default": {**settings.TASKS["default"], "OPTIONS": options}}
    add.enqueue(1)
    add.using(queue_name="ai").enqueue(1)
    assert limits() == [(None, None, None), ("a:1", 1, 1)]
    calls.any_number.enqueue(1)
    with pytest.raises(OptionError, match=r"any_number\(\) has no argument 'a'"):
        calls.any_number.using(queue_name="ai").enqueue(1)


def test_a_name_that_is_no_argument_is_refused_where_the_task_is_declared():
    with pytest.raises(
        InvalidTask, match=r"@task linear: concurrency_key: .* 'atempt'. Did you mean 'attempt'"
    ):
        task(concurrency_key="{atempt}")(calls.linear)
    with pytest.raises(InvalidTask, match="no argument 'c'"):
        add.using(concurrency_key="{c}")


@pytest.mark.parametrize("wrong", [1.5, True, ["a"], object()])
def test_a_key_of_another_type_writes_nothing(wrong):
    with pytest.raises(OptionError, match=r"concurrency_key of add\(\) must return a str, an int or None"):
        add.using(concurrency_key=lambda a: wrong).enqueue(1)
    assert not Job.objects.exists()


def test_an_error_of_the_callable_reaches_the_caller_and_writes_nothing():
    with pytest.raises(ZeroDivisionError):
        add.using(concurrency_key=lambda a: 1 / a).enqueue(0)
    assert not Job.objects.exists()


def test_plain_jobs_name_no_column_that_they_do_not_set():
    with CaptureQueriesContext(connection) as queries:
        add.enqueue(1)
    (statement,) = [query["sql"] for query in queries if "INSERT" in query["sql"]]
    assert "slots" not in statement
    assert "unique" not in statement
    assert "dead_letter_queue" not in statement


def test_plain_and_limited_jobs_share_one_copy_and_stay_in_order():
    later = add.using(queue_name="other", retention=None)
    enqueue_many([(per_account, [1]), (add, ["x\ty"]), (later, [3]), (heavy, [])])
    rows = Job.objects.order_by("id").values_list("args", "queue", "slots", "state")
    assert list(rows) == [
        ([1], "default", 1, State.READY),
        (["x\ty"], "default", None, State.READY),
        ([3], "other", None, State.READY),
        ([], "default", 4, State.READY),
    ]
