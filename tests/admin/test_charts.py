"""Bars: where they stand, and that none of them is too small to be seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pgonly_django.admin.charts import HEIGHT, SMALLEST, WIDTH, Bar, bar_chart, nice


@pytest.mark.parametrize(
    ("number", "expected"), [(0, 1), (1, 1), (3, 5), (11, 20), (200, 200), (201, 500), (10**9 + 1, 2 * 10**9)]
)
def test_the_upper_edge_is_a_round_number(number, expected):
    assert nice(number) == expected


def test_one_failure_among_ten_thousand_is_seen():
    (column,) = bar_chart([Bar("now", [("failed", 1), ("succeeded", 9_999)])]).columns
    failed, succeeded = column.rects
    assert float(failed.height) == SMALLEST
    assert float(succeeded.y) + float(succeeded.height) == pytest.approx(float(failed.y), abs=0.02)


def test_an_empty_period_has_no_bars():
    chart = bar_chart([Bar("a", [("failed", 0)]), Bar("b", [])])
    assert [column.rects for column in chart.columns] == [[], []]
    assert bar_chart([]).columns == []


@given(some.lists(some.lists(some.integers(0, 10**7), max_size=5), min_size=1, max_size=60))
def test_no_bar_leaves_the_chart_or_overlaps_another(numbers):
    bars = [Bar("", [(str(place), number) for place, number in enumerate(values)]) for values in numbers]
    right = 0.0
    for column in bar_chart(bars).columns:
        lower = HEIGHT
        for rect in column.rects:
            x, y, width, height = (float(value) for value in (rect.x, rect.y, rect.width, rect.height))
            assert right - 0.02 <= x <= WIDTH - width + 0.02
            assert y >= 0
            assert y + height <= lower + 0.02
            lower = y
        right = max([right, *(float(rect.x) + float(rect.width) for rect in column.rects)])
