"""Requests and tokens per minute: several limits in one reservation, corrected by the true use."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django import limiter
from pgonly_django.exceptions import LimiterTimeoutError, WrongArgumentsError
from pgonly_django.models import Limiter
from tests.limits.rows import assert_refuses, buckets, enter, held


def as_if_it_had_rested(**levels):
    """For ten minutes."""
    Limiter.objects.update(refilled_at=timezone.now() - timedelta(minutes=10), **levels)


def test_after_a_start_or_a_rest_no_more_than_half_a_second_s_worth_comes_at_once(limits):
    limits(deepseek={"requests_per_minute": 1200})
    for _ in range(2):
        count = 0
        with pytest.raises(LimiterTimeoutError):
            while count < 1200:
                enter()
                count += 1
        elapsed = 30 if count > 11 else 0  # a slow machine: 20 come in every second
        assert 1 <= count <= 11 + elapsed
        as_if_it_had_rested()


def test_tokens_are_drawn_for_each_use_and_one_after_another_gets_in(limits, hold):
    limits(deepseek={"tokens_per_minute": 60_000})
    with limiter("deepseek", tokens=1000):
        assert buckets()[1] <= -499  # it holds 501
    assert_refuses(tokens=1)
    assert hold("deepseek", tokens=1).error is None


def test_one_use_larger_than_the_limit_gets_in_and_is_paid_back(limits):
    limits(deepseek={"tokens_per_minute": 6000})
    enter(tokens=100_000)
    assert buckets()[1] < -99_000
    assert_refuses(tokens=0)
    as_if_it_had_rested()
    assert_refuses(tokens=1)


def test_what_was_really_used_is_drawn_instead_of_what_was_reserved(limits):
    limits(deepseek={"concurrent": 1, "tokens_per_minute": 600, "requests_per_minute": 600})
    with limiter("deepseek", tokens=300) as use:
        before = buckets()
        use.tokens, use.requests = 20_000, 4
    after = buckets()
    assert before[1] - after[1] == pytest.approx(19_700, abs=300)
    assert after[0] < before[0]
    as_if_it_had_rested(tokens=-100, requests=0)
    with limiter("deepseek", tokens=300) as use:
        before = buckets()[1]
        use.tokens = 0
    assert buckets()[1] > before


def test_none_keeps_the_reservation_and_other_values_are_refused(limits):
    limits(deepseek={"tokens_per_minute": 600})
    with limiter("deepseek", tokens=7) as use:
        use.tokens = 9
        use.tokens = None
        assert use.tokens == 7
        with pytest.raises(WrongArgumentsError, match=r"use\.tokens must be a number, not below 0, got '9'"):
            use.tokens = "9"
        use.requests = None
        assert use.requests == 1


def test_a_misspelt_correction_is_an_error_and_not_lost(limits):
    limits(deepseek={})
    with limiter("deepseek", tokens=7) as use, pytest.raises(AttributeError, match="token"):
        use.token = 900


@pytest.mark.parametrize("empty", ["requests", "tokens"])
def test_every_limit_must_have_room(limits, empty):
    limits(deepseek={"concurrent": 2, "tokens_per_minute": 600, "requests_per_minute": 600})
    enter(tokens=1)
    Limiter.objects.update(**{empty: -1000})
    assert_refuses(tokens=1)
    assert held() == 0
    Limiter.objects.update(**{empty: 1000})
    enter(tokens=1)


def test_a_use_without_tokens_waits_only_for_debts(limits):
    limits(deepseek={"tokens_per_minute": 60})
    for _ in range(10):
        enter()
    Limiter.objects.update(tokens=-50)
    assert_refuses()


def test_limits_that_a_person_changes_hold_from_the_next_use_on(limits):
    limits(deepseek={"requests_per_minute": 6})
    enter()
    assert_refuses()
    Limiter.objects.edit(requests_per_minute=600_000)
    as_if_it_had_rested()
    for _ in range(100):
        enter()
    Limiter.objects.edit(requests_per_minute=1)
    enter()
    assert_refuses()


def test_a_debt_of_centuries_is_a_long_wait_and_no_error(limits):
    limits(deepseek={"tokens_per_minute": 0.001})
    with limiter("deepseek") as use:
        use.tokens = 1e15
    assert_refuses(timeout=0.2)
