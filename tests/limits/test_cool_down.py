"""A cool-down stops all who want in, wherever they are; and its end lets them in again."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from unittest.mock import Mock

import pytest
from django.utils import timezone

from pgonly_django import limiter
from pgonly_django.current_job import current_job
from pgonly_django.exceptions import (
    LimitsUnavailableError,
    UnknownLimiterError,
    WrongArgumentsError,
)
from pgonly_django.limits.pool_user import pool
from pgonly_django.models import Limiter
from tests.limits.rows import assert_refuses, waiting
from tests.waiting import wait_for


def seconds_left():
    until = Limiter.objects.get().blocked_until
    return (until - timezone.now()) / timedelta(seconds=1)


def test_a_cool_down_without_limits_stops_everybody_too(limits):
    limits(deepseek={})
    limiter("deepseek").cool_down(100)
    assert_refuses()
    assert Limiter.objects.end_cool_down() == 1
    with limiter("deepseek", timeout=0):
        assert Limiter.objects.end_cool_down() == 0


@pytest.mark.slow
def test_nobody_gets_in_while_it_cools_down_and_who_waits_gets_in_after_it(limits, hold):
    limits(deepseek={"concurrent": 5})
    limiter("deepseek").cool_down(2)
    assert_refuses()
    waiter = hold("deepseek", wait=False)
    wait_for(waiting)
    until = Limiter.objects.get().blocked_until
    assert waiter.is_in.wait(30)
    assert timezone.now() >= until


def test_a_use_that_met_a_429_stops_the_others_and_goes_on_itself(limits):
    limits(deepseek={"requests_per_minute": 6000})
    with limiter("deepseek") as use:
        assert use.too_many_requests({"Retry-After": "120"}) == 120
        assert_refuses()
    assert_refuses()
    assert 110 < seconds_left() <= 120


def test_async_code_cools_down_too(limits):
    limits(deepseek={"concurrent": 5})

    async def use():
        async with limiter("deepseek") as use:
            await use.acool_down(timedelta(seconds=60))
        return await limiter("deepseek").atoo_many_requests(None)

    assert asyncio.run(use()) == 20
    assert 50 < seconds_left() <= 60


def test_of_two_cool_downs_the_later_end_counts(limits):
    limits(deepseek={})
    limiter("deepseek").cool_down(100)
    limiter("deepseek").cool_down(1)
    assert seconds_left() > 90


def test_the_end_that_a_person_makes_of_it_lets_in_who_waits(limits, hold):
    limits(deepseek={"concurrent": 5})
    limiter("deepseek").cool_down(600)
    waiter = hold("deepseek", wait=False)
    wait_for(waiting)
    Limiter.objects.end_cool_down()
    assert waiter.is_in.wait(30)


def test_a_cool_down_is_tried_again_while_the_database_is_away(limits):
    limits(deepseek={})
    pool().close_idle()
    pool()._failed_at = time.monotonic()
    limiter("deepseek").cool_down(60)
    assert seconds_left() > 30


def test_a_cool_down_in_a_job_is_given_up_as_elsewhere(limits, monkeypatch):
    limits(deepseek={})
    monkeypatch.setattr("pgonly_django.limits.limiter.PATIENCE_SECONDS", 0.1)
    pool().close_idle()
    pool()._failed_at = time.monotonic() + 60
    token = current_job.set(Mock())
    try:
        with pytest.raises(LimitsUnavailableError):
            limiter("deepseek").cool_down(60)
    finally:
        current_job.reset(token)
        pool()._failed_at = 0.0


def test_wrong_durations_and_names_are_refused(limits):
    limits(deepseek={})
    with pytest.raises(WrongArgumentsError, match="The time to cool down must be seconds or a timedelta"):
        limiter("deepseek").cool_down(-1)
    with pytest.raises(UnknownLimiterError):
        limiter("nobody").cool_down(1)
    limiter("deepseek").cool_down(1e300)
    assert_refuses()
