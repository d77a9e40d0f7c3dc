from __future__ import annotations

import copy
from datetime import timedelta

import pytest

from pgonly_django import task
from pgonly_django.compat import InvalidTask
from pgonly_django.exceptions import OptionError
from pgonly_django.tasks.of_celery import ATTRIBUTES, OPTIONS
from pgonly_django.tasks.options import RULES
from pgonly_django.tasks.task import DJANGO_TASK, DJANGO_USING
from tests.tasks.calls import add, linear


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_celery_is_answered_with_what_stands_for_it(name):
    answer = f"{name} is an option of Celery. Here it is {OPTIONS[name]}."
    with pytest.raises(InvalidTask) as raised:
        task(**{name: 3})(linear)
    assert str(raised.value) == f"@task linear: {answer}"
    with pytest.raises(OptionError) as refused:
        add.using(**{name: timedelta(minutes=1)})
    assert str(refused.value) == f"add.using(): {answer}"


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_of_celerys_tasks_is_answered_with_what_stands_for_it(name):
    with pytest.raises(AttributeError) as raised:
        getattr(add, name)(1, 2)
    assert str(raised.value) == f"add.{name} is Celery's. Here it is {ATTRIBUTES[name]}."
    assert not hasattr(add, name)


def test_no_option_of_ours_is_taken_for_one_of_celery():
    assert OPTIONS.keys().isdisjoint({*RULES, *DJANGO_TASK, *DJANGO_USING, "aliases"})
    assert not any(name in dir(add) for name in ATTRIBUTES)


def test_what_names_of_tasks_stand_for_exists():
    for answer in (*OPTIONS.values(), *ATTRIBUTES.values()):
        option = answer.partition("=")[0].removeprefix(".using(")
        if "=" in answer and option.isidentifier():
            assert option in {*RULES, *DJANGO_TASK, *DJANGO_USING, "aliases"}, answer


def test_other_attributes_are_missing_as_of_any_object():
    with pytest.raises(AttributeError, match="'PostgresTask' object has no attribute 'dealy'"):
        add.dealy(1)
    assert copy.deepcopy(add) == add
