"""`with limiter(...)`: the public side."""

from __future__ import annotations

import pytest

from pgonly_django import limiter
from pgonly_django.exceptions import LimiterTimeoutError, NestedLimiterError, UnknownLimiterError
from pgonly_django.models import LimiterSlot, LimiterWaiter


def held(name="deepseek"):
    return LimiterSlot.objects.filter(limiter=name, holder__isnull=False).count()


def test_a_slot_is_held_inside_of_the_block_and_free_after_it(limits):
    limits(deepseek={"concurrent": 2})
    with limiter("deepseek") as use:
        assert held() == 1
        assert use.waited_seconds < 30
    assert held() == 0
    assert not LimiterWaiter.objects.exists()


def test_a_limiter_that_is_full_refuses_who_does_not_wait(limits):
    limits(deepseek={"concurrent": 1})
    with limiter("deepseek"):
        import contextvars

        def inner():
            with pytest.raises(LimiterTimeoutError), limiter("deepseek", timeout=0):
                pytest.fail("entered")

        contextvars.Context().run(inner)
    assert held() == 0


def test_it_cannot_be_entered_by_who_is_inside(limits):
    limits(deepseek={"concurrent": 2})
    with limiter("deepseek"), pytest.raises(NestedLimiterError), limiter("deepseek"):
        pytest.fail("entered")
    assert held() == 0


def test_an_unknown_name_names_the_nearest(limits):
    limits(deepseek={"concurrent": 2})
    with pytest.raises(UnknownLimiterError, match=r"'deepsek'.*Did you mean 'deepseek'"), limiter("deepsek"):
        pytest.fail("entered")
