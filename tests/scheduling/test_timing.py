from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSimError
from hypothesis import given, settings
from hypothesis import strategies as st

from pgonly_django.scheduling.timing import CronLine, Interval, TimingError, due

NEW_YORK, BERLIN, SANTIAGO = "America/New_York", "Europe/Berlin", "America/Santiago"
# In New York 2026: 8 March 02:00 becomes 03:00; 1 November 02:00 becomes 01:00 (the hour from 01:00 comes twice).
# In Santiago 2026: 6 September 00:00 becomes 01:00.
# In Berlin 2026: 29 March 02:00 becomes 03:00; 25 October 03:00 becomes 02:00 (the hour from 02:00 comes twice).
SKIPPED = [
    (NEW_YORK, "2026-03-07 12:00", "30 2 * * *", ["08 03:00-0400", "09 02:30-0400"]),
    (NEW_YORK, "2026-03-07 12:00", "0 2 * * *", ["08 03:00-0400", "09 02:00-0400"]),
    (NEW_YORK, "2026-03-08 00:59", "0 1,2,3 * * *", ["08 01:00-0500", "08 03:00-0400", "09 01:00-0400"]),
    (NEW_YORK, "2026-03-08 00:59", "0 * * * *", ["08 01:00-0500", "08 03:00-0400", "08 04:00-0400"]),
    (NEW_YORK, "2026-03-08 01:29", "*/30 * * * *", ["08 01:30-0500", "08 03:00-0400", "08 03:30-0400"]),
    (NEW_YORK, "2026-03-08 00:00", "*/20 2 * * *", ["09 02:00-0400", "09 02:20-0400"]),
    (NEW_YORK, "2026-03-08 00:00", "0 30 2 * * *", ["09 02:30-0400", "10 02:30-0400"]),
    (BERLIN, "2026-03-28 12:00", "30 2 * * *", ["29 03:00+0200", "30 02:30+0200"]),
    (BERLIN, "2026-03-29 01:00", "0 * * * *", ["29 03:00+0200", "29 04:00+0200"]),
    (BERLIN, "2026-03-29 00:00", "30 1 * * *", ["29 01:30+0100", "30 01:30+0200"]),
    (SANTIAGO, "2026-09-05 12:00", "*/20 1 6 * *", ["06 01:00-0300", "06 01:20-0300", "06 01:40-0300"]),
    (SANTIAGO, "2026-09-05 12:00", "*/20 0 6 * *", ["06 00:00-0300", "06 00:20-0300", "06 00:40-0300"]),
    (SANTIAGO, "2026-08-10 12:00", "*/20 1 6 9 *", ["06 01:00-0300", "06 01:20-0300", "06 01:40-0300"]),
    (SANTIAGO, "2026-09-05 12:00", "* */2 6 * *", ["06 02:00-0300", "06 02:01-0300"]),
    (SANTIAGO, "2026-09-05 12:00", "0 0 1 6 * *", ["06 01:00-0300", "06 01:00-0300"]),
    (SANTIAGO, "2026-09-05 12:00", "30 0 6 * *", ["06 01:00-0300", "06 00:30-0300"]),
]
REPEATED = [
    (NEW_YORK, "2026-10-31 12:00", "30 1 * * *", ["01 01:30-0400", "02 01:30-0500"]),
    (NEW_YORK, "2026-10-31 12:00", "30 2 * * *", ["01 02:30-0500", "02 02:30-0500"]),
    (NEW_YORK, "2026-11-01 00:30", "0 * * * *", ["01 01:00-0400", "01 01:00-0500", "01 02:00-0500"]),
    (NEW_YORK, "2026-11-01 01:10", "*/30 1 * * *", ["01 01:30-0400", "01 01:00-0500", "01 01:30-0500"]),
    (NEW_YORK, "2026-11-01 00:00", "0 30 1 * * *", ["01 01:30-0400", "01 01:30-0500", "02 01:30-0500"]),
    (BERLIN, "2026-10-24 12:00", "30 2 * * *", ["25 02:30+0200", "26 02:30+0100"]),
    (BERLIN, "2026-10-25 01:30", "0 * * * *", ["25 02:00+0200", "25 02:00+0100", "25 03:00+0100"]),
]
CALENDAR = [
    ("UTC", "2026-01-01 00:00", "0 0 29 2 *", ["2028-02-29", "2032-02-29", "2036-02-29"]),
    ("UTC", "2026-01-15 00:00", "0 0 L * *", ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]),
    ("UTC", "2028-02-01 00:00", "0 0 L * *", ["2028-02-29", "2028-03-31"]),
    ("UTC", "2026-01-15 00:00", "0 0 31 * *", ["2026-01-31", "2026-03-31", "2026-05-31"]),
    ("UTC", "2026-11-01 00:00", "0 0 * * MON#1", ["2026-11-02", "2026-12-07"]),
    ("UTC", "2026-11-01 00:00", "0 0 13 * FRI", ["2026-11-06", "2026-11-13", "2026-11-20"]),
    ("Asia/Shanghai", "2026-12-31 12:00", "@yearly", ["2027-01-01", "2028-01-01"]),
    ("UTC", "2026-11-01 00:00", "@weekly", ["2026-11-08", "2026-11-15"]),
]


def following(zone, begin, line, count, fold=0):
    local = datetime.fromisoformat(begin).replace(tzinfo=ZoneInfo(zone), fold=fold)
    cron, moment, found = CronLine(line, zone), local.astimezone(UTC), []
    for _ in range(count):
        moment = cron.next_after(moment)
        found.append(moment.astimezone(ZoneInfo(zone)))
    return found


@pytest.mark.parametrize(("zone", "begin", "line", "expected"), SKIPPED)
def test_where_the_clock_skips_an_hour(zone, begin, line, expected):
    """A fixed time runs right after the gap; what follows real time does not run in it."""
    assert [f"{tick:%d %H:%M%z}" for tick in following(zone, begin, line, len(expected))] == expected


@pytest.mark.parametrize(("zone", "begin", "line", "expected"), REPEATED)
def test_where_an_hour_comes_twice(zone, begin, line, expected):
    """A fixed time runs the first time only; what follows real time runs in both."""
    assert [f"{tick:%d %H:%M%z}" for tick in following(zone, begin, line, len(expected))] == expected


@pytest.mark.parametrize(
    ("zone", "begin", "line", "expected"),
    [
        (NEW_YORK, "2026-11-01 01:15", "30 1 * * *", "02 01:30-0500"),
        (NEW_YORK, "2026-11-01 01:45", "30 1 * * *", "02 01:30-0500"),
        (BERLIN, "2026-10-25 02:15", "30 2 * * *", "26 02:30+0100"),
    ],
)
def test_in_the_second_of_two_hours_the_first_ones_ticks_have_passed(zone, begin, line, expected):
    (tick,) = following(zone, begin, line, 1, fold=1)
    assert f"{tick:%d %H:%M%z}" == expected


@pytest.mark.parametrize(("zone", "begin", "line", "expected"), CALENDAR)
def test_the_calendar(zone, begin, line, expected):
    assert [f"{tick:%Y-%m-%d}" for tick in following(zone, begin, line, len(expected))] == expected


@pytest.mark.parametrize(
    "line", ["61 * * * *", "* * * *", "0 0 30 2 *", "0 25 * * *", "@reboot", "0 0 * * NOD"]
)
def test_a_wrong_line_is_named_with_what_is_wrong_in_it(line):
    with pytest.raises(TimingError) as raised:
        CronLine(line, "UTC")
    wrong = raised.value.__cause__
    assert isinstance(wrong, CronSimError)
    assert f"{line!r} is not a cron line: {wrong}." in str(raised.value)
    assert "0 3 * * MON-FRI" in str(raised.value)


@pytest.mark.parametrize(
    ("zone", "near"),
    [
        ("Asia/Shangai", "Asia/Shanghai"),
        ("europe/berlin", "Europe/Berlin"),
        ("America/NewYork", "America/New_York"),
    ],
)
def test_an_unknown_zone_names_the_nearest_one(zone, near):
    with pytest.raises(TimingError, match=f"Did you mean '{near}'"):
        CronLine("* * * * *", zone)


def test_a_zone_like_no_other_says_what_a_zone_looks_like():
    with pytest.raises(TimingError, match="Europe/Berlin"):
        CronLine("* * * * *", "???")


@pytest.mark.parametrize(
    ("timing", "words"),
    [
        (CronLine("0 3 * * *", "Asia/Shanghai"), "At 03:00 every day (Asia/Shanghai)"),
        (CronLine("@hourly", "UTC"), "At the start of every hour (UTC)"),
        (Interval(timedelta(minutes=5), datetime.now(UTC)), "Every 5 minutes"),
        (Interval(timedelta(hours=1), datetime.now(UTC)), "Every hour"),
        (Interval(timedelta(days=2), datetime.now(UTC)), "Every 2 days"),
        (Interval(timedelta(seconds=90), datetime.now(UTC)), "Every 90 seconds"),
        (Interval(timedelta(seconds=1), datetime.now(UTC)), "Every second"),
        (Interval(timedelta(seconds=0.2), datetime.now(UTC)), "Every 0.2 seconds"),
    ],
)
def test_a_timing_in_words(timing, words):
    assert timing.words() == words


@settings(deadline=None)
@given(
    line=st.sampled_from(
        ["30 2 * * *", "0 * * * *", "*/7 * * * *", "15 1,2 * * *", "0 0 L * *", "5 2 * * SUN"]
    ),
    zone=st.sampled_from([NEW_YORK, BERLIN, SANTIAGO, "Australia/Lord_Howe", "UTC"]),
    begin=st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)),
    minutes=st.integers(0, 60 * 24 * 20),
)
def test_the_latest_tick_is_the_last_one_that_the_way_forward_meets(line, zone, begin, minutes):
    cron = CronLine(line, zone)
    first = cron.next_after(begin.replace(tzinfo=UTC))
    until = first + timedelta(minutes=minutes)
    ticks = [first]
    while (tick := cron.next_after(ticks[-1])) <= until:
        ticks.append(tick)
    assert all(earlier < later for earlier, later in pairwise(ticks))
    assert cron.latest(first, until) == ticks[-1]


@given(seconds=st.floats(0.1, 1e6), late=st.floats(0, 1e9))
def test_an_interval_stays_on_its_grid(seconds, late):
    every, base = timedelta(seconds=seconds), datetime(2026, 1, 1, tzinfo=UTC)
    interval, moment = Interval(every, base), base + timedelta(seconds=late)
    after = interval.next_after(moment)
    assert moment < after <= moment + every
    assert (after - base) % every == timedelta(0)
    first = base + every
    until = max(moment, first)
    latest = interval.latest(first, until)
    assert latest <= until < latest + every
    assert (latest - base) % every == timedelta(0)


def test_an_interval_that_leaves_the_calendar_has_no_next_tick():
    every = timedelta(days=36_500)
    assert (
        Interval(every, datetime(9950, 1, 1, tzinfo=UTC)).next_after(datetime(9960, 1, 1, tzinfo=UTC)) is None
    )


def test_all_missed_ticks_come_in_order_and_in_portions():
    first = datetime(2026, 1, 1, tzinfo=UTC)
    minutely = CronLine("* * * * *", "UTC")
    portion = due(minutely, first, first + timedelta(minutes=250), "all")
    assert portion.run == [first + timedelta(minutes=place) for place in range(100)]
    assert portion.next == first + timedelta(minutes=100)
