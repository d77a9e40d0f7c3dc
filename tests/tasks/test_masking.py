from __future__ import annotations

import pytest

from pgonly_django.masking import MASK
from pgonly_django.queue.values import NESTING_LIMIT
from pgonly_django.tasks.masking import JobMask
from tests.jobs import nest

PAY, WITH_CONTEXT = "tests.jobs.editing.pay", "tests.jobs.editing.with_context"


def test_positional_arguments_have_the_names_of_the_parameters():
    args = ["7", "t0ken", {"api_key": "x", "n": 1}, 5]
    assert JobMask().args(PAY, args) == ["7", MASK, {"api_key": MASK, "n": 1}, 5]


def test_the_context_of_a_task_is_not_counted():
    assert JobMask().args(WITH_CONTEXT, ["x", 2]) == [MASK, 2]


def test_arguments_that_have_no_name_are_masked():
    assert JobMask().args(WITH_CONTEXT, ["x", 2, "third"]) == [MASK, 2, MASK]


@pytest.mark.parametrize(
    "path", ["shop.gone", "tests.jobs.editing.gone", "", ".", "tests.exits_when_imported.x"]
)
def test_all_arguments_of_a_task_that_is_not_known_here_are_masked(path):
    assert JobMask().args(path, ["x", {"a": 1}]) == [MASK, MASK]


def test_keyword_arguments_and_results_are_masked_by_their_keys():
    value = {"api_key": "x", "rows": [{"token": "y", "id": 1}]}
    assert JobMask().value(value) == {"api_key": MASK, "rows": [{"token": MASK, "id": 1}]}


@pytest.mark.parametrize("value", [None, 5, "token", [], {}, {"a": None}])
def test_what_holds_no_secret_is_shown_as_it_is(value):
    assert JobMask().value(value) == value
    assert JobMask().args(PAY, value) == value


def test_the_deepest_arguments_of_a_job_are_shown():
    assert JobMask().value(nest(NESTING_LIMIT)) == nest(NESTING_LIMIT)


def test_the_setting_says_which_names_are_secret(settings):
    settings.PGONLY = {"MASKED_ARGUMENTS": ["acc*"]}
    assert JobMask().args(PAY, ["7", "t0ken"]) == [MASK, "t0ken"]
    settings.PGONLY = {"MASKED_ARGUMENTS": []}
    assert JobMask().args("shop.gone", [{"token": 1}]) == [{"token": 1}]


def test_it_says_whether_something_of_a_call_is_hidden():
    mask = JobMask()
    assert mask.hides_of(PAY, ["7", "t0ken"], {})
    assert mask.hides_of(PAY, ["7"], {"token": 1})
    assert not mask.hides_of(PAY, ["7"], {"note": "x"})
