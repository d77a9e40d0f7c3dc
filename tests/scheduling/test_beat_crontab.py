from __future__ import annotations

import pytest

from pgonly_django.scheduling.beat_crontab import UnusableError, cron_line

pytestmark = pytest.mark.slow

EVERY = {"minute": "*", "hour": "*", "day_of_month": "*", "month_of_year": "*", "day_of_week": "*"}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "* * * * *"),
        ({"minute": "*/15"}, "*/15 * * * *"),
        ({"minute": 30, "hour": 7}, "30 7 * * *"),
        ({"minute": "0", "hour": "22-4"}, "0 0,1,2,3,4,22,23 * * *"),
        ({"minute": "0", "hour": "8-18/3"}, "0 8,11,14,17 * * *"),
        ({"minute": "0", "hour": "9-17", "day_of_week": "mon-fri"}, "0 9-17 * * 1-5"),
        ({"minute": "0", "hour": "0", "day_of_week": "sunday"}, "0 0 * * 0"),
        ({"minute": "0", "hour": "0", "day_of_week": "fri-mon"}, "0 0 * * 0,1,5,6"),
        ({"minute": "0", "hour": "0", "day_of_month": "*/2"}, "0 0 */2 * *"),
        ({"minute": "0", "hour": "0", "day_of_month": "1,15", "month_of_year": "jan,July"}, "0 0 1,15 1,7 *"),
        ({"minute": {0, 15, 30, 45}, "hour": set(range(24))}, "*/15 * * * *"),
        ({"minute": [5, 10], "day_of_week": {1, 2, 3, 4, 5}}, "5,10 * * * 1-5"),
        ({"minute": "1, 2", "month_of_year": "march"}, "1,2 * * 3 *"),
        ({"day_of_month": "*/2", "day_of_week": "mon"}, "* * */2 * 1"),
    ],
)
def test_a_crontab_of_celerys_is_a_cron_line(fields, line):
    assert cron_line({**EVERY, **fields}) == line


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"day_of_month": "13", "day_of_week": "fri"}, "both match"),
        ({"minute": "60"}, "'60' is not from 0 to 59"),
        ({"day_of_week": "7"}, "'7' is not from 0 to 6"),
        ({"hour": "noon"}, "'noon'"),
        ({"minute": "*/0"}, "step of 0"),
        ({"minute": "1-"}, "'1-'"),
        ({"minute": ""}, "''"),
    ],
)
def test_what_cron_cannot_say_is_named(fields, said):
    with pytest.raises(UnusableError) as raised:
        cron_line({**EVERY, **fields})
    assert said in str(raised.value)
