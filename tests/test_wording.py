from __future__ import annotations

from datetime import timedelta

import pytest

from pgonly_django.wording import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0, "0 s"), (0.0000807, "80.7 us"), (0.00191, "1.91 ms"), (0.5, "500 ms"), (0.9999, "1 s"),
     (12.345, "12.3 s"), (59.99, "60 s"), (60, "1 min"), (200, "3 min 20 s"), (420, "7 min"), (7504, "2 h 5 min"),
     (7200, "2 h"), (86_459, "1 d"), (273_600, "3 d 4 h")],
)  # fmt: skip
def test_a_duration_is_said_in_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_a_duration_may_be_a_timedelta():
    assert duration(timedelta(minutes=7)) == "7 min"
