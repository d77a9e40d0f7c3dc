"""The bars of the overview: where they stand, and that none of them is too small to be seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pgonly_django.admin.overview.panels import HEIGHT, SMALLEST, WIDTH, bar_chart, nice
from pgonly_django.models.job_stats import NUMBERS


@pytest.mark.parametrize(
    ("number", "expected"), [(0, 1), (1, 1), (3, 5), (11, 20), (200, 200), (201, 500), (10**9 + 1, 2 * 10**9)]
)
def test_the_upper_edge_is_a_round_number(number, expected):
    assert nice(number) == expected


def test_one_failure_among_ten_thousand_is_seen():
    ((failed, succeeded),) = bar_chart([[1, *[0] * (len(NUMBERS) - 2), 9_999]])["bars"]
    assert (failed["kind"], succeeded["kind"]) == ("failed", "succeeded")
    assert float(failed["height"]) == SMALLEST
    assert float(succeeded["y"]) + float(succeeded["height"]) == pytest.approx(float(failed["y"]), abs=0.02)


def test_an_empty_period_has_no_bars():
    assert bar_chart([[0] * len(NUMBERS)])["bars"] == [[]]
    assert bar_chart([])["bars"] == []


@given(some.lists(some.tuples(*[some.integers(0, 10**7)] * len(NUMBERS)), min_size=1, max_size=20))
def test_no_bar_leaves_the_chart_or_overlaps_another(numbers):
    right = 0.0
    for bar in bar_chart([*map(list, numbers)])["bars"]:
        lower = HEIGHT
        for rect in bar:
            x, y, width, height = (float(rect[name]) for name in ("x", "y", "width", "height"))
            assert right - 0.02 <= x <= WIDTH - width + 0.02
            assert y >= 0
            assert y + height <= lower + 0.02
            lower = y
        right = max([right, *(float(rect["x"]) + float(rect["width"]) for rect in bar)])
