from __future__ import annotations

import pytest

from pgonly_django.exceptions import OptionError, WrongArgumentsError
from pgonly_django.tasks.arguments import CallSignature
from pgonly_django.tasks.keys import KEY_LENGTH, key_function, stored_key


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
        ("{account_id", "is no template"),
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
    "long", ["a" * (KEY_LENGTH + 1), "nul\0", "half \udc80", "x #sha256:y", "🎈" * 10_000]
)
def test_any_other_key_is_stored_as_its_head_and_a_hash(long):
    stored = stored_key(long)
    assert len(stored) <= KEY_LENGTH
    assert "\0" not in stored
    assert stored.encode()
    assert stored != stored_key(long + "a")
    assert stored == stored_key(long)
    assert stored_key(stored) != stored, "no key of a caller may be that of another"
