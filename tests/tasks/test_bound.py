"""bind(): a call that is made later, and what .using(then=...) takes and refuses."""

from __future__ import annotations

import copy
import pickle

import pytest

from pgonly_django import RESULT, enqueue_many, task
from pgonly_django.compat import InvalidTask, task_backends
from pgonly_django.exceptions import NotStorableError, OptionError, WrongArgumentsError
from pgonly_django.models import Job
from tests.docs.assumed import DUMMY, IMMEDIATE
from tests.jobs import chained, editing
from tests.jobs.chained import keep, load

pytestmark = pytest.mark.django_db


def test_a_bound_call_is_checked_at_once_and_makes_the_job_of_its_enqueue():
    call = load.using(priority=3).bind(number=7)
    with pytest.raises(WrongArgumentsError, match="missing a required argument"):
        load.bind(name=1)
    new = call.new_job()
    assert (new.args, new.kwargs, new.template.priority) == ("[]", '{"number":7}', 3)
    assert not Job.objects.exists()


def test_enqueue_many_takes_bound_calls_and_tasks_that_others_follow():
    calls = [load.using(then=keep.bind(RESULT, "'\\")).bind(n) for n in range(2)]
    results = enqueue_many([*calls, load.bind(2), (chained.keep_once.using(then=keep), (1,))])
    rows = [result.job for result in results]
    assert [row.args for row in rows] == [[0], [1], [2], [1]]
    assert [row.then_job and row.then_job["args"] for row in rows] == [[None, "'\\"], [None, "'\\"], None, []]


def test_of_calls_that_share_one_job_the_one_that_wrote_it_says_what_follows():
    chained.keep_once.using(then=load.bind(1)).enqueue(7)
    again = chained.keep_once.using(then=load.bind(2)).enqueue(7)
    assert again.is_duplicate
    assert again.job.then_job["args"] == [1]
    chained.keep_later.using(then=load.bind(1)).enqueue(7)
    assert chained.keep_later.using(then=load.bind(2)).enqueue(7).job.then_job["args"] == [2]


def test_then_none_takes_it_back():
    assert load.using(then=keep).using(then=None).enqueue(1).job.then_job is None


def test_result_survives_copies_and_is_no_argument_of_an_enqueue():
    assert pickle.loads(pickle.dumps(RESULT)) is copy.deepcopy(RESULT) is RESULT
    with pytest.raises(NotStorableError):
        keep.enqueue(RESULT)
    with pytest.raises(NotStorableError, match="Argument"):
        load.using(then=chained.keep_once.bind({"inside": RESULT})).enqueue(1)


def test_tasks_that_others_follow_are_hashable():
    chain = load.using(then=keep.bind([1], a={}))
    assert hash(chain) == hash(load.using(then=keep.bind([1], a={})))


@pytest.mark.parametrize("then", ["tests.jobs.add", keep.func, RESULT, 7])
def test_what_is_no_call_is_refused(then):
    with pytest.raises(OptionError, match=r"load\.using\(\): then must be a task"):
        load.using(then=then)


def test_a_task_that_needs_arguments_is_bound_first():
    with pytest.raises(WrongArgumentsError, match="missing a required argument: 'number'"):
        keep.using(then=load)


def test_it_belongs_to_one_call():
    with pytest.raises(InvalidTask, match=r"then belongs to one call. Set it there: .using\(then="):
        task(then=keep)(load.func)


@pytest.mark.parametrize(
    "call",
    [
        chained.keep_in.bind(RESULT),
        chained.keep_once.bind(project=RESULT),
        chained.keep_later.bind(RESULT),
        editing.keyed.bind(RESULT),
    ],
)
def test_a_key_that_would_depend_on_the_result_is_refused(call):
    with pytest.raises(OptionError, match="has a key that depends on RESULT"):
        load.using(then=call).enqueue(1)
    assert not Job.objects.exists()


def test_a_callable_that_cannot_make_its_key_yet_is_told_as_it_is():
    with pytest.raises(TypeError):
        load.using(then=chained.keep_by_value.bind(RESULT)).enqueue(1)


def test_a_job_in_another_database_is_refused(settings):
    settings.TASKS = {
        **settings.TASKS,
        "elsewhere": {**settings.TASKS["default"], "OPTIONS": {"database": "other"}},
    }
    with pytest.raises(OptionError, match="must be in the same database, 'default'"):
        load.using(then=keep.using(backend="elsewhere")).enqueue(1)


def test_behind_the_immediate_backend_nothing_follows(settings):
    settings.TASKS = IMMEDIATE
    assert load.using(then=keep.bind(RESULT)).enqueue(1).return_value == {"number": 1}
    assert not Job.objects.exists()


def test_behind_the_dummy_backend_nothing_follows(settings):
    settings.TASKS = DUMMY
    load.using(then=keep.bind(RESULT)).enqueue(1)
    assert len(task_backends["default"].results) == 1
