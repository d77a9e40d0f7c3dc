"""Every argument of a public call that is of a wrong type or size is refused by name, before anything is written."""

from __future__ import annotations

import enum
import functools
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest
from django.db import models, transaction
from django.utils import timezone
from django.utils.safestring import SafeString

from pgonly_django import Backoff, Retry, Snooze, enqueue_many, task
from pgonly_django.compat import InvalidTask, TaskResultDoesNotExist
from pgonly_django.exceptions import NotStorableError, OptionError, WrongArgumentsError
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.tasks.arguments import LENGTH_LIMIT
from tests.tasks import calls
from tests.tasks.calls import add, backend, linear

HOUR = timedelta(hours=1)
NAN = float("nan")
A_NAME = "a str of 1 to 64 characters without NUL"


class Queues(models.TextChoices):
    MAIL = "mail"


class Mixed(str, enum.Enum):  # noqa: UP042 - its str() is "Mixed.MAIL", unlike a StrEnum's
    MAIL = "mail"


class Priority(enum.IntEnum):
    HIGH = 7


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("queue_name", "q" * 65, f"queue_name must be {A_NAME}, got 'qqq"),
        ("queue_name", "", f"queue_name must be {A_NAME}, got ''"),
        ("queue_name", "a\x00b", f"queue_name must be {A_NAME}"),
        ("queue_name", "\udc80", f"queue_name must be {A_NAME}"),
        ("queue_name", 5, f"queue_name must be {A_NAME}, got 5"),
        ("priority", True, "It cannot be True"),
        ("priority", "5", "It cannot be '5'"),
        ("priority", NAN, "It cannot be nan"),
        ("priority", Decimal(5), "It cannot be Decimal"),
        ("priority", 101, "priority must be a whole number between -100 and 100"),
        ("priority", 1.5, "priority must be a whole number between -100 and 100"),
        ("run_after", HOUR, r"It cannot be datetime.timedelta.*timezone.now\(\) \+ delay"),
        ("run_after", date(2030, 1, 1), "run_after must be an aware datetime"),
        ("run_after", time(12, tzinfo=UTC), "run_after must be an aware datetime"),
        ("run_after", 5, "run_after must be an aware datetime"),
        ("run_after", datetime(2030, 1, 1), "run_after must be an aware datetime"),
        ("run_after", datetime.max.replace(tzinfo=UTC), "in the years 1000 to 8999"),
        ("run_after", datetime.min.replace(tzinfo=UTC), "in the years 1000 to 8999"),
        (
            "run_after",
            datetime(8999, 12, 31, 23, tzinfo=timezone.get_fixed_timezone(-5 * HOUR)),
            "in the years 1000 to 8999",
        ),
        (
            "run_after",
            datetime(1000, 1, 1, 1, tzinfo=timezone.get_fixed_timezone(5 * HOUR)),
            "in the years 1000 to 8999",
        ),
        ("backend", 5, "backend must be an alias of TASKS, got 5"),
        ("backend", ["default"], "backend must be an alias of TASKS"),
    ],
)
def test_a_value_that_no_column_takes_is_refused_by_using(option, value, says):
    with pytest.raises(InvalidTask, match=says):
        add.using(**{option: value})


@pytest.mark.parametrize("naive", [datetime.max, datetime.min])
def test_without_time_zones_the_bounds_are_the_same(settings, naive):
    settings.USE_TZ = False
    with pytest.raises(InvalidTask, match="in the years 1000 to 8999"):
        add.using(run_after=naive)


@pytest.mark.django_db
@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("year", [1000, 8999])
def test_the_first_and_the_last_time_can_be_read_back(settings, use_tz, year):
    settings.USE_TZ = use_tz
    moment = datetime(year, 6, 1, tzinfo=UTC)
    add.using(run_after=moment).enqueue(1)
    enqueue_many([(add.using(run_after=moment), [1])])
    assert [job.run_at.year for job in Job.objects.all()] == [year, year]


@pytest.mark.parametrize(
    "decorated", ["ai", 5, functools.partial(linear), print, int, SimpleNamespace(), None]
)
def test_what_is_no_function_cannot_be_a_task(decorated):
    with pytest.raises(InvalidTask, match="must be defined at a module level"):
        task(priority=1)(decorated)
    with pytest.raises(InvalidTask, match=r"@task .*: max_atempts is not a setting"):
        task(max_atempts=1)(decorated)


def test_a_path_that_no_row_can_hold_is_refused():
    def function(): ...

    function.__qualname__ = "f" * 256
    with pytest.raises(InvalidTask, match="at most 255 characters long, got 2"):
        task(function)


def test_a_queue_that_is_not_allowed_names_the_setting_and_the_nearest_name(settings):
    settings.TASKS = {"default": {**settings.TASKS["default"], "QUEUES": ["default", "mail"]}}
    with pytest.raises(InvalidTask) as refusal:
        add.using(queue_name="mial")
    assert "TASKS['default'][\"QUEUES\"] has 'default', 'mail' (did you mean 'mail'?)" in str(refusal.value)


@pytest.mark.django_db
@pytest.mark.parametrize("queue", [Queues.MAIL, Mixed.MAIL, SafeString("mail")])
def test_an_enum_is_stored_as_its_text_or_number(queue):
    chosen = add.using(queue_name=queue, priority=Priority.HIGH, max_attempts=Priority.HIGH)
    chosen.enqueue(queue, Priority.HIGH)
    enqueue_many([(chosen, [queue, Priority.HIGH])])
    facts = ("queue", "priority", "max_attempts", "args")
    assert list(Job.objects.values_list(*facts)) == [("mail", 7, 7, ["mail", 7])] * 2
    template = backend()._prepare(chosen).template
    assert template.payloads(timezone.now()) == ("ready mail",)


@pytest.mark.django_db
def test_a_whole_float_is_a_priority_as_in_django():
    chosen = add.using(priority=7.0)
    chosen.enqueue(1)
    enqueue_many([(chosen, [1])])
    assert list(Job.objects.values_list("priority", flat=True)) == [7, 7]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "argument",
    [
        object(),
        Decimal(1),
        NAN,
        pytest.param(10**5000, id="long"),
        "\x00",
    ],
)
def test_what_is_no_json_is_a_type_error_and_a_value_error(argument):
    for kind in (NotStorableError, TypeError, ValueError):
        with pytest.raises(kind, match="Argument 'a' of add"):
            add.enqueue(argument)
    assert not Job.objects.exists()


@pytest.mark.django_db
def test_more_than_a_row_can_hold_is_refused_before_the_insert():
    with pytest.raises(NotStorableError, match=r"characters, more than 32,000,000"):
        add.enqueue("x" * (LENGTH_LIMIT - 4), b="y" * 2)
    assert not Job.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ([add], r"call 0 must be \(task, args\), \(task, args, kwargs\) or .*, got PostgresTask"),
        ([(add, [1]), (add,)], "call 1 must be"),
        ([(add, [1], {}, {}, 5)], "call 0 must be"),
        ([(linear, [1])], "call 0 must be"),
        ([("tests.tasks.calls.add", [1])], "call 0 must be"),
        (["ab"], "call 0 must be"),
        ([None], "call 0 must be"),
        ([(add, 1)], "the args of call 0 must be a list, got 1"),
        ([(add, "text")], "the args of call 0 must be a list, got 'text'"),
        ([(add, {"a": 1})], "the args of call 0 must be a list"),
        ([(add, [1], [2])], r"the kwargs of call 0 must be a dict, got \[2\]"),
        ([(add, [1], {2: 3})], "the kwargs of call 0 must be a dict"),
        (add, r"it takes a list of \(task, args\)"),
        (None, "it takes a list of"),
        ("ab", "it takes a list of"),
        ({add: [1]}, "it takes a list of"),
    ],
)
def test_calls_of_another_shape_are_named(listed, says):
    with pytest.raises(WrongArgumentsError, match=r"enqueue_many\(\) cannot be called with .*" + says):
        enqueue_many(listed)
    assert not Job.objects.exists()


@pytest.mark.django_db
def test_calls_of_another_backend_s_tasks_are_named(settings):
    settings.TASKS = {"default": settings.TASKS["default"], "now": {"BACKEND": calls.IMMEDIATE}}
    with pytest.raises(WrongArgumentsError, match=r"TASKS.'now'. is a ImmediateBackend.*one by one"):
        enqueue_many([(add, [1]), (calls.plain.using(backend="now"), [1])])
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "wrong",
    [
        lambda: add.using(queue_name="q" * 65).enqueue(1),
        lambda: add.using(priority=True).enqueue(1),
        lambda: add.using(run_after=HOUR).enqueue(1),
        lambda: add.enqueue(object()),
        lambda: enqueue_many([add]),
        lambda: add.using(max_attempts="3").enqueue(1),
        lambda: add.enqueue(1).wait(HOUR),
    ],
)
def test_the_transaction_around_a_refusal_stays_usable(wrong):
    with transaction.atomic():
        with pytest.raises((InvalidTask, TypeError, ValueError)):
            wrong()
        add.enqueue(2)
    assert [2] in Job.objects.values_list("args", flat=True)


@pytest.mark.django_db
@pytest.mark.parametrize("timeout", [None, "5", HOUR, NAN, True])
def test_a_wait_takes_seconds(timeout):
    result = add.enqueue(1)
    with pytest.raises(WrongArgumentsError, match=r"wait\(\) .*timeout must be a number of seconds"):
        result.wait(timeout)


@pytest.mark.django_db
def test_a_wait_without_end_is_a_wait():
    result = add.enqueue(1)
    Job.objects.update(state=State.SUCCEEDED)
    assert result.wait(float("inf")).is_finished


@pytest.mark.parametrize("instruction", [Snooze, Retry])
@pytest.mark.parametrize("delay", [None, "soon", NAN, True, Decimal(1)])
def test_an_instruction_takes_a_timedelta_or_seconds(instruction, delay):
    with pytest.raises(WrongArgumentsError, match="delay must be a timedelta or seconds, got"):
        instruction(delay)


@pytest.mark.parametrize("instruction", [Snooze, Retry])
def test_a_delay_beyond_all_time_is_the_longest_there_is(instruction):
    assert instruction(float("inf")).delay == instruction(10**20).delay == timedelta.max
    assert instruction(float("-inf")).delay == timedelta(0)
    assert instruction(1.5).delay == timedelta(seconds=1.5)


@pytest.mark.parametrize(
    ("base", "cap"),
    [
        (5, HOUR),
        (HOUR, "1 h"),
        (None, None),
        (HOUR, timedelta.max),
        (HOUR, timedelta(minutes=1)),
        (-HOUR, HOUR),
    ],
)
def test_a_backoff_takes_timedeltas_that_a_date_can_hold(base, cap):
    with pytest.raises(OptionError, match="Backoff needs"):
        Backoff(base=base, cap=cap)


@pytest.mark.django_db
@pytest.mark.parametrize("result_id", [None, 5, "", "\x00", "x" * 100, "\udc80", object()])
def test_what_is_no_id_is_the_id_of_no_result(result_id):
    with pytest.raises(TaskResultDoesNotExist):
        backend().get_result(result_id)
