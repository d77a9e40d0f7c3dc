from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgonly_django.exceptions import OptionError
from pgonly_django.queue.retry import Backoff, backoff_parameters, delay_seconds

ERROR = ValueError("x")
seconds = st.integers(0, 10**6).map(lambda n: timedelta(seconds=n))


@given(base=seconds, cap=seconds, attempt=st.integers(1, 1000))
def test_a_delay_lies_within_the_doubled_window_and_the_cap(base, cap, attempt):
    cap = max(base, cap)
    delay = Backoff(base=base, cap=cap)(attempt, ERROR)
    assert timedelta(0) <= delay <= cap
    window = min(base.total_seconds() * 2 ** min(attempt - 1, 40), cap.total_seconds())
    assert window / 2 - 1e-6 <= delay.total_seconds() <= window


def test_jobs_that_failed_together_spread_over_the_second_half_of_the_window():
    backoff = Backoff(base=timedelta(seconds=100), cap=timedelta(hours=1))
    delays = [backoff(1, ERROR).total_seconds() for _ in range(500)]
    assert 50 <= min(delays) < 53
    assert 95 < max(delays) <= 100


@given(base=seconds, shorter=seconds)
def test_a_cap_below_the_base_is_refused(base, shorter):
    if shorter >= base:
        return
    with pytest.raises(OptionError, match="base <= cap"):
        Backoff(base=base, cap=shorter)


@pytest.mark.parametrize(
    ("returned", "delay"),
    [(timedelta(minutes=2), 120.0), (3, 3.0), (0.5, 0.5), (-7, 0.0), (timedelta(-1), 0.0)],
)
def test_a_callable_gives_a_timedelta_or_seconds_and_never_less_than_nothing(returned, delay):
    assert delay_seconds(lambda attempt, error: returned, 1, ERROR) == delay


@pytest.mark.parametrize("returned", [None, "soon", True])
def test_a_callable_that_gives_anything_else_is_named(returned):
    with pytest.raises(OptionError, match="timedelta or seconds"):
        delay_seconds(lambda attempt, error: returned, 1, ERROR)


class WithCall:
    def __call__(self, exception, task_result):
        return task_result * 2


def positional_only(attempt, error, /):
    return attempt


def with_a_default(attempt, error, step=10):
    return attempt * step


TAKES = [
    (lambda exception, task_result: task_result + len(str(exception)), 8.0),
    (lambda task_result: task_result, 7.0),
    (lambda error: len(str(error)), 1.0),
    (lambda _error, attempt: attempt, 4.0),
    (lambda *, attempt, error: attempt, 4.0),
    (lambda: 5, 5.0),
    (WithCall(), 14.0),
    (WithCall().__call__, 14.0),
    (positional_only, 4.0),
    (with_a_default, 40.0),
    (partial(with_a_default, step=2), 8.0),
    (lambda attempt, *rest, **more: attempt, 4.0),
]


@pytest.mark.parametrize(("backoff", "delay"), TAKES)
def test_the_names_of_its_parameters_say_what_a_backoff_takes(backoff, delay):
    assert delay_seconds(backoff, 4, ERROR, task_result=7) == delay


async def coroutine_function(attempt, error): ...


@pytest.mark.parametrize(
    "backoff",
    [
        lambda *_: 1,
        lambda **_: 1,
        lambda n, e: 1,
        lambda attempt, exc: 1,
        lambda attempt, error, step: 1,
        partial(lambda first, error: 1),
        WithCall,
        int,
        max,
        print,
        timedelta(seconds=1),
        3,
        coroutine_function,
    ],
)
def test_a_backoff_whose_parameters_do_not_tell_what_it_takes_is_refused(backoff):
    with pytest.raises(OptionError, match=r"\(attempt, error\) or \(exception, task_result\), named so, got"):
        backoff_parameters(backoff)


def test_only_a_backoff_with_djangos_parameters_may_end_the_attempts():
    assert delay_seconds(lambda exception: None, 1, ERROR) is None
    with pytest.raises(OptionError, match="got None"):
        delay_seconds(lambda error: None, 1, ERROR)
