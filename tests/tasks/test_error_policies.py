from __future__ import annotations

import sys
from types import ModuleType

import pytest

from pgonly_django import task
from pgonly_django.compat import InvalidTask
from pgonly_django.exceptions import OptionError
from pgonly_django.tasks.error_policies import policy_of
from pgonly_django.tasks.options import TaskOptions, restored, storable
from tests.jobs.policies import BurstLimitedError, NoMoneyError, QuotaError, RateLimitedError
from tests.tasks.calls import add, linear


def options(**policies):
    return TaskOptions(**policies)


def test_without_a_policy_no_error_has_one():
    assert policy_of(ValueError(), options()) is None


def test_a_class_stands_for_its_subclasses():
    assert (
        policy_of(UnicodeDecodeError("utf8", b"", 0, 1, ""), options(never_retry=ValueError)) == "never_retry"
    )
    assert policy_of(KeyError(), options(never_retry=(ValueError, LookupError))) == "never_retry"
    assert policy_of(Exception(), options(never_retry=ValueError)) is None


def test_the_nearest_base_class_decides():
    both = options(never_retry=Exception, snooze_on=RateLimitedError, hold_on=NoMoneyError)
    assert policy_of(BurstLimitedError(), both) == "snooze_on"
    assert policy_of(NoMoneyError(), both) == "hold_on"
    assert policy_of(QuotaError(), both) == "hold_on", "the first of its bases"
    assert policy_of(KeyError(), both) == "never_retry"


def test_a_class_can_be_named_by_its_path_and_by_another_path_of_it(monkeypatch):
    assert (
        policy_of(BurstLimitedError(), options(hold_on="tests.jobs.policies.RateLimitedError")) == "hold_on"
    )
    package = ModuleType("limits_of_somebody")
    package.RateLimited = RateLimitedError
    monkeypatch.setitem(sys.modules, "limits_of_somebody", package)
    assert policy_of(BurstLimitedError(), options(snooze_on="limits_of_somebody.RateLimited")) == "snooze_on"


def test_a_module_whose_own_getattr_raises_has_no_such_class(monkeypatch):
    def getattr_of_module(name):
        raise ImportError(name)

    package = ModuleType("lazy_package")
    package.__getattr__ = getattr_of_module
    monkeypatch.setitem(sys.modules, "lazy_package", package)
    both = options(never_retry="lazy_package.Error", snooze_on=ValueError)
    assert policy_of(ValueError(), both) == "snooze_on"


@pytest.mark.parametrize("path", ["no_such_package.Error", "tests.jobs.policies.NoSuchError", "os.path"])
def test_a_path_where_no_class_stands_any_more_matches_nothing_and_imports_nothing(path):
    before = set(sys.modules)
    assert policy_of(ValueError(), options(never_retry=path)) is None
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("errors", "policy"),
    [
        ([RateLimitedError(), BurstLimitedError()], "snooze_on"),
        ([RateLimitedError(), RuntimeError()], None),
        ([RateLimitedError(), ValueError()], "never_retry"),
        ([RateLimitedError(), NoMoneyError()], "hold_on"),
        ([NoMoneyError(), ValueError()], "never_retry"),
        ([ExceptionGroup("inner", [RateLimitedError()]), RateLimitedError()], "snooze_on"),
    ],
)
def test_of_a_group_the_errors_inside_count(errors, policy):
    all_of_them = options(never_retry=ValueError, snooze_on=RateLimitedError, hold_on=NoMoneyError)
    assert policy_of(ExceptionGroup("several", errors), all_of_them) == policy
    assert policy_of(BaseExceptionGroup("several", errors), all_of_them) == policy


def test_a_group_that_is_named_itself_is_taken_as_it_is():
    named = options(never_retry=ExceptionGroup, snooze_on=RateLimitedError)
    assert policy_of(ExceptionGroup("several", [RateLimitedError()]), named) == "never_retry"


def test_an_allowlist_stands_beside_the_other_policies():
    allowed = options(
        retry_on=(LookupError, RateLimitedError), never_retry=KeyError, snooze_on=BurstLimitedError
    )
    assert policy_of(IndexError(), allowed) == "retry_on"
    assert policy_of(KeyError(), allowed) == "never_retry"
    assert policy_of(BurstLimitedError(), allowed) == "snooze_on"
    assert policy_of(ValueError(), allowed) is None
    assert policy_of(ExceptionGroup("", [IndexError(), BurstLimitedError()]), allowed) == "retry_on"
    assert policy_of(ExceptionGroup("", [IndexError(), ValueError()]), allowed) is None
    assert policy_of(ExceptionGroup("", [IndexError(), KeyError()]), allowed) == "never_retry"


@pytest.mark.parametrize("name", ["never_retry", "retry_on", "snooze_on", "hold_on"])
@pytest.mark.parametrize("value", ["ValueError", 3, int, (ValueError, None), [ValueError], "a b.C", None])
def test_what_is_no_error_class_is_refused_where_it_is_written(name, value):
    with pytest.raises(
        InvalidTask, match=f"{name} must be an exception class, its dotted path, or a tuple of these"
    ):
        task(**{name: value})(linear)
    with pytest.raises(OptionError, match=f"{name} must be an exception class"):
        add.using(**{name: value})


def test_the_policies_of_one_call_come_back_in_the_worker_as_paths():
    stored = storable({"never_retry": (ValueError, "httpx.HTTPError"), "snooze_on": RateLimitedError})
    assert stored == {
        "never_retry": ["builtins.ValueError", "httpx.HTTPError"],
        "snooze_on": ["tests.jobs.policies.RateLimitedError"],
    }
    back = options(**restored(stored))
    assert policy_of(UnicodeError(), back) == "never_retry"
    assert policy_of(BurstLimitedError(), back) == "snooze_on"


def test_a_class_that_no_path_leads_to_is_known_by_its_name():
    class LocalError(Exception):
        pass

    back = options(**restored(storable({"never_retry": LocalError})))
    assert policy_of(LocalError(), back) == "never_retry"
