"""When a schedule ticks. Times are aware; those that come back are in UTC.

Daylight saving, as Debian's cron has it. A line whose minute and hour are fixed ("30 2 * * *") runs once on every day:
a time that the clock skips runs right after the gap, and a time that comes twice runs the first time. A line with a
star in one of the two ("0 * * * *") follows real time: what the clock skips does not run, and what comes twice runs
twice. So does a line with seconds. Intervals are real time as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from pgonly_django.conf import nearest_zone

# cron's own short forms.
MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
AT_ONCE = 100  # ticks that one transaction enqueues
# To find the latest tick, this number of ticks is computed one by one; beyond it the search begins this long before.
STEPS = 1000
WINDOW = timedelta(hours=3)
# A tick that is older has been missed: its worker was not running. A worker that is replaced takes less.
MISSED_AFTER = timedelta(minutes=1)


class TimingError(ValueError):
    """A cron line or a time zone does not exist; the message says what is wrong."""


class Due(NamedTuple):
    """The ticks to run now, in order, the last one that has passed, and the next one; None where there is none."""

    run: list[datetime]
    last: datetime
    next: datetime | None


class Timing(Protocol):
    def next_after(self, moment: datetime) -> datetime | None: ...

    def latest(self, first: datetime, until: datetime) -> datetime:
        """Returns the last tick from `first`, which is one, to `until`."""
        ...

    def words(self) -> str: ...


def due(timing: Timing, first: datetime, now: datetime, catch_up: str) -> Due:
    """Returns the ticks from `first`, which is one, to `now` by the rule."""
    first, now = (
        first.astimezone(UTC),
        now.astimezone(UTC),
    )  # between times of one zone Python counts its clock's hours
    if catch_up == "all":
        ticks = [first, *islice(_ticks(timing, first, now), AT_ONCE - 1)]
        return Due(ticks, ticks[-1], timing.next_after(ticks[-1]))
    last = timing.latest(first, now)
    is_missed = catch_up == "none" and now - last > MISSED_AFTER
    return Due([] if is_missed else [last], last, timing.next_after(last))


def _ticks(timing: Timing, after: datetime, until: datetime) -> Iterator[datetime]:
    tick = timing.next_after(after)
    while tick is not None and tick <= until:
        yield tick
        tick = timing.next_after(tick)


@dataclass(frozen=True, slots=True)
class Interval:
    """Ticks at every `every` since `base`, a tick or its creation. So a run that comes late shifts nothing."""

    every: timedelta
    base: datetime

    def next_after(self, moment: datetime) -> datetime | None:
        try:
            return self.base + self.every * (max((moment - self.base) // self.every, 0) + 1)
        except OverflowError:
            return None

    def latest(self, first: datetime, until: datetime) -> datetime:
        return first + self.every * max((until - first) // self.every, 0)

    def words(self) -> str:
        seconds = self.every / timedelta(seconds=1)
        for size, one, many in ((86_400, "day", "days"), (3_600, "hour", "hours"), (60, "minute", "minutes")):
            if seconds >= size and seconds % size == 0:
                count = int(seconds // size)
                return f"Every {one}" if count == 1 else f"Every {count} {many}"
        return "Every second" if seconds == 1 else f"Every {seconds:g} seconds"


class _Line(CronSim):
    """A cron line of cronsim. Where the clock skips midnight, cronsim continues from 00:00, which does not exist then,
    and so misses 01:00. Here that day begins with its first moment."""

    def advance_day(self) -> bool:
        has_moved = super().advance_day()
        if self.dt.tzinfo not in (None, UTC):
            self.dt = self.dt.astimezone(UTC).astimezone(self.dt.tzinfo)
        return has_moved


class CronLine:
    """The ticks of a cron line. Raises TimingError."""

    def __init__(self, line: str, zone: str) -> None:
        self.line, self.zone = MACROS.get(line.strip().lower(), line), zone_of(zone)
        try:
            _Line(self.line, datetime.now(UTC))
        except CronSimError as error:
            rule = 'It has minute, hour, day of month, month and weekday, such as "0 3 * * MON-FRI"'
            raise TimingError(f"{line!r} is not a cron line: {error}. {rule}.") from error

    @property
    def is_empty(self) -> bool:
        return self.next_after(datetime.now(UTC)) is None

    def next_after(self, moment: datetime) -> datetime | None:
        return next(self._after(moment), None)

    def latest(self, first: datetime, until: datetime) -> datetime:
        last, steps = first, 0
        for tick in self._after(first):
            if tick > until:
                return last
            last, steps = tick, steps + 1
            if steps == STEPS:
                break
        # The tick is far in the past. Backwards only comes near: around daylight saving the way forward decides.
        near = next(_Line(self.line, until.astimezone(self.zone), reverse=True), first).astimezone(UTC)
        for tick in self._after(max(near - WINDOW, last)):
            if tick > until:
                break
            last = tick
        return last

    def words(self) -> str:
        text = _Line(self.line, datetime.now(UTC)).explain()
        return f"{text} ({self.zone.key})"

    def _after(self, moment: datetime) -> Iterator[datetime]:
        """Yields later ticks. In the hour that comes twice cronsim may begin with ticks that have passed."""
        for local in _Line(self.line, moment.astimezone(self.zone)):
            tick = local.astimezone(UTC)
            if tick > moment:
                moment = tick
                yield tick


@lru_cache(maxsize=1_000)
def zone_of(name: str) -> ZoneInfo:
    """Raises TimingError, which names the nearest zone. The list of all zones is read from files, in 20 ms."""
    if name in available_timezones():
        return ZoneInfo(name)
    raise TimingError(f"{name!r} is not a time zone. {nearest_zone(name)}")
