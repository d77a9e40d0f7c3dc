"""PGONLY["LIMITERS"]: what is wrong is named, with the value and the remedy."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from pgonly_django import limiter
from pgonly_django.limits.declarations import check_limiters


def messages(settings, **limiters):
    settings.PGONLY = {**settings.PGONLY, "LIMITERS": limiters}
    return [(message.id, message.msg) for message in check_limiters()]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (5, 'PGONLY["LIMITERS"][\'deepseek\'] must be a dict, such as {"concurrent": 5}, got 5.'),
        ({"concurent": 5}, "[\"concurent\"] is not a setting. Did you mean 'concurrent'?"),
        ({"concurrent": 0}, '["concurrent"] must be a whole number from 1 to 10,000, or None, got 0.'),
        ({"concurrent": True}, '["concurrent"] must be a whole number from 1 to 10,000, or None, got True.'),
        ({"concurrent": 2.5}, "got 2.5"),
        ({"requests_per_minute": 0}, '["requests_per_minute"] must be a number above 0, or None, got 0.'),
        (
            {"tokens_per_minute": float("nan")},
            '["tokens_per_minute"] must be a number above 0, or None, got nan.',
        ),
        ({"tokens_per_minute": "90k"}, "got '90k'"),
    ],
)
def test_a_wrong_entry_is_named(settings, entry, said):
    ((number, message),) = messages(settings, deepseek=entry)
    assert number == "pgonly_django.E401"
    assert said in message


def test_a_name_that_no_row_can_have_is_refused(settings):
    assert "a str of 1 to 255 characters" in messages(settings, **{"x" * 256: {}})[0][1]


def test_settings_that_are_no_dict_are_another_check_s_business(settings):
    settings.PGONLY = {"LIMITERS": 5}
    assert check_limiters() == []


def test_a_wrong_entry_is_an_error_when_it_is_used(limits):
    limits(deepseek={"concurrent": -1}, right={})
    with pytest.raises(ImproperlyConfigured, match="got -1"), limiter("deepseek"):
        pytest.fail("entered")
    with limiter("right"):
        pass
