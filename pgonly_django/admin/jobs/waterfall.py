"""The runs of a job, the gaps between them and its steps, as bars on one scale of time."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from pgonly_django.admin.formats import duration, money, time_tag
from pgonly_django.admin.jobs.attempts import SAME_CLAIM, EqualAttempts, RecordedAttempt, folded
from pgonly_django.models import Job, State
from pgonly_django.models.job_rows import ERRORS_KEPT

NARROWEST = 0.4  # percent: a shorter bar could not be seen
INTERVALS = 2
SHORTEST_SCALE = timedelta(milliseconds=1)
# The last run and its job end in one statement, or at least within this time.
AT_ONCE = timedelta(seconds=1)
RUNNING, WAIT, LOST = "running", "wait", "lost"
# Steps whose names differ in numbers alone, from so many on, are one row with a histogram of when they ended.
ALIKE_FROM, PARTS_OF_HISTOGRAM, FULL_HEIGHT = 6, 40, 14.0
SINGLE_STEPS = 100
NUMBERS = re.compile(r"[0-9]+")


class Segment(NamedTuple):
    """A bar. Coordinates are text: a template would write numbers as the reader's language does."""

    kind: str  # WAIT, LOST or a kind that has its own colour
    x: str
    width: str
    y: str
    height: str


class Scale:
    def __init__(self, start: datetime, end: datetime) -> None:
        self.start, self.span = start, max(end - start, SHORTEST_SCALE)

    def bar(self, kind: str, start: datetime, end: datetime) -> Segment:
        left = self._percent(start)
        width = max(self._percent(end) - left, NARROWEST)
        height = 4 if kind in (WAIT, LOST) else 12
        return _segment(kind, min(left, 100 - width), width, height)

    def histogram(self, kind: str, moments: Sequence[datetime]) -> list[Segment]:
        """Returns a bar for each part of the scale in which some of the `moments` are, as high as they are many."""
        width = 100 / PARTS_OF_HISTOGRAM
        counts = Counter(min(int(self._percent(at) / width), PARTS_OF_HISTOGRAM - 1) for at in moments)
        most = max(counts.values())
        return [
            _segment(kind, part * width, width * 0.9, max(FULL_HEIGHT * count / most, 2))
            for part, count in sorted(counts.items())
        ]

    def _percent(self, at: datetime) -> float:
        return min(max((at - self.start) / self.span, 0.0), 1.0) * 100

    @property
    def ticks(self) -> list[tuple[str, str]]:
        parts = range(INTERVALS + 1)
        return [(f"{100 * part // INTERVALS}%", duration(self.span * part / INTERVALS)) for part in parts]


def _segment(kind: str, left: float, width: float, height: float) -> Segment:
    return Segment(kind, f"{left:.2f}%", f"{width:.2f}%", f"{9 - height / 2:g}", f"{height:g}")


@dataclass(slots=True)
class Row:
    key: str  # tells it from the others while the page refreshes itself
    at: datetime
    name: str
    start: str = ""
    bars: list[Segment] = field(default_factory=list)
    tone: str = ""
    label: str = ""  # of its badge
    count: int = 1
    note: str = ""
    beside: str = ""  # its name: how long it waited, or how many tokens it took
    took: str = ""
    cost: str = ""
    result: str = ""
    is_step: bool = False
    rows: list[Row] = field(default_factory=list)  # of the newest steps that it stands for


class StepTimes(NamedTuple):
    """What is read of every step, however many a job has."""

    id: Any
    name: str
    started_at: datetime | None
    finished_at: datetime
    usd: Decimal | None

    @property
    def began_at(self) -> datetime:
        return self.started_at or self.finished_at


class Waterfall:
    """`rows` in the order of their starts, on one `scale`, and `sums` of the time that was spent."""

    def __init__(
        self,
        job: Job,
        attempts: list[RecordedAttempt],
        steps: list[dict[str, Any]],
        times: Sequence[StepTimes],
        waits_since: datetime | None = None,  # for an event or a time
    ) -> None:
        self._job, self._waits_since = job, waits_since
        self.left_out = 0  # steps that have no row
        self._attempts = [each for each in attempts if each.shown_at is not None]
        starts = [job.started_at, *(each.started_at for each in attempts)]
        self._first_start = min((at for at in starts if at is not None), default=None)
        self._end = self._last_moment()
        self.scale = Scale(self._first_moment(), self._end)
        self._passed = job.enqueued_at  # bars are drawn up to here
        self._spent = dict.fromkeys((RUNNING, WAIT, LOST), timedelta(0))
        rows = [*self._earlier_runs(), *self._runs(), *self._rest(), *self._steps(steps, times)]
        self.rows = sorted(rows, key=lambda row: (row.at, row.is_step))
        for row in [*self.rows, *(inner for outer in self.rows for inner in outer.rows)]:
            row.start = time_tag(row.at, duration(row.at - self.scale.start))

    def _last_moment(self) -> datetime:
        if not self._job.is_finished:
            return timezone.now()
        ends = [self._job.finished_at, *(each.finished_at for each in self._attempts)]
        return max((at for at in ends if at is not None), default=self._job.enqueued_at)

    def _first_moment(self) -> datetime:
        """Returns where the scale begins: a wait for the first start may be longer than all the rest."""
        enqueued, first = self._job.enqueued_at, self._first_start
        return first if first is not None and first - enqueued > self._end - first else enqueued

    def _earlier_runs(self) -> Iterator[Row]:
        """Yields one row for runs before the first recorded one: the errors of a job keep its last runs only."""
        first = next((each for each in self._attempts if each.started_at is not None), None)
        began = self._job.started_at
        known_from = _start(first) if first else self._waits_since or self._end
        if began is None or known_from - began <= SAME_CLAIM:
            return
        # A run that waits for an event or a time leaves no entry.
        has_waited = len(self._job.errors) < ERRORS_KEPT
        note, kind = (_("then it waited"), WAIT) if has_waited else (_("no longer recorded"), LOST)
        if self._waits_since and self._job.lease_epoch == 1:  # the run that waits
            note, kind = "", RUNNING
        runs = first.run - first.in_a_row if first and first.run else self._job.lease_epoch
        name = ngettext("%d earlier run", "%d earlier runs", runs) % runs if runs > 0 else _("earlier runs")
        row = Row("earlier-runs", began, name, note=note)
        row.beside = _waited(self._gap(row, WAIT, began))
        row.took = _shown(self._gap(row, kind, known_from))
        yield row

    def _runs(self) -> Iterator[Row]:
        for group in folded(self._attempts):
            yield self._run(group)
            if group.newest.step:
                yield self._failed_step(group)

    def _run(self, group: EqualAttempts) -> Row:
        newest, waited, ran = group.newest, timedelta(0), timedelta(0)
        row = Row(f"run-{newest.key}", _start(group.attempts[0]), group.place, count=group.count)
        row.tone, row.label, row.note = newest.tone, newest.label, newest.cause
        for each in group.attempts:
            start, end = _start(each), each.finished_at or self._end
            # An entry that stands for many runs has the times of the last one.
            waited += self._gap(row, WAIT if each.in_a_row == 1 else LOST, start)
            row.bars.append(self.scale.bar(each.tone, start, end))
            ran += end - start
            self._passed = max(self._passed, end)
        self._spent[RUNNING] += ran
        row.beside, row.took = _waited(waited), _shown(ran)
        return row

    def _gap(self, row: Row, kind: str, until: datetime) -> timedelta:
        """Adds the gap from the last bar to `until`."""
        gap = max(until - self._passed, timedelta(0))
        if gap and until > self.scale.start:
            row.bars.append(self.scale.bar(kind, self._passed, until))
        self._spent[kind] += gap
        self._passed += gap
        return gap

    def _failed_step(self, group: EqualAttempts) -> Row:
        """Returns the failed step, which has no row in the database: a step is written after it is done."""
        calls = [
            (each.step_started_at or _start(each), each.finished_at or self._end) for each in group.attempts
        ]
        row = Row(f"raised-{group.newest.key}", calls[0][0], group.newest.step, is_step=True)
        row.tone, row.label, row.count = "failed", _("Raised"), group.count
        row.bars = [self.scale.bar("failed", start, end) for start, end in calls]
        row.took = _shown(sum((end - start for start, end in calls), timedelta(0)))
        return row

    def _rest(self) -> Iterator[Row]:
        """Yields the time since the last run of a job that waits, or that ended without another run."""
        rest = self._end - self._passed
        if self._job.state == State.RUNNING or (self._job.is_finished and rest < AT_ONCE):
            return
        row = Row("rest", self._passed, "", tone=self._job.state, label=self._job.get_state_display())
        row.beside = _waited(self._gap(row, WAIT, self._end))
        yield row

    def _steps(self, steps: list[dict[str, Any]], times: Sequence[StepTimes]) -> Iterator[Row]:
        """Yields a row for all that are alike, and one for each other step, SINGLE_STEPS at most. `steps`: those that
        can be opened; `times`: of all that the job has, or none where that is the same."""
        times = times or [_times_of(shown) for shown in steps]
        opened = {shown["step"].pk: self._step(shown) for shown in steps}
        alike: dict[str, list[StepTimes]] = defaultdict(list)
        for each in times:
            alike[NUMBERS.sub("#", each.name)].append(each)
        single = []
        for group in alike.values():
            if len(group) < ALIKE_FROM:
                single += group
            else:
                row = self._alike(group)
                row.rows = [opened[each.id] for each in reversed(group) if each.id in opened]
                yield row
        self.left_out = max(len(single) - SINGLE_STEPS, 0)
        single.sort(key=lambda each: each.finished_at, reverse=True)
        for each in single[:SINGLE_STEPS]:
            yield opened.get(each.id) or self._alike([each])

    def _alike(self, steps: list[StepTimes]) -> Row:
        steps = sorted(steps, key=lambda step: step.began_at)
        lengths = sorted(step.finished_at - step.started_at for step in steps if step.started_at)
        ends = {"first": steps[0].name, "last": steps[-1].name}
        name = _("%(first)s to %(last)s") % ends if len(steps) > 1 else steps[0].name
        row = Row(f"alike-{steps[0].id}", steps[0].began_at, name, is_step=True, count=len(steps))
        row.bars = self.scale.histogram("done", [step.finished_at for step in steps])
        row.took = _shown(sum(lengths, timedelta(0)))
        if len(lengths) > 1:
            facts = {
                "least": duration(lengths[0]),
                "most": duration(lengths[-1]),
                "half": duration(lengths[len(lengths) // 2]),
            }
            row.beside = _("%(least)s to %(most)s, p50 %(half)s") % facts
        usd = sum((step.usd for step in steps if step.usd is not None), Decimal(0))
        row.cost = money(usd) if usd else ""
        return row

    def _step(self, shown: dict[str, Any]) -> Row:
        step, result = shown["step"], shown["result"]
        start = step.started_at or step.finished_at
        row = Row(f"step-{step.pk}", start, step.name, is_step=True, result=result)
        row.bars = [self.scale.bar("done", start, step.finished_at)]
        row.cost, row.beside = shown["cost"], shown["tokens"]
        row.took = duration(step.finished_at - start) if step.started_at else ""
        return row

    @cached_property
    def has_costs(self) -> bool:
        return any(row.cost for row in self.rows)

    @property
    def sums(self) -> list[tuple[str, str, str]]:
        """Returns kind, time, and what it was spent on."""
        texts = {RUNNING: _("running"), WAIT: _("waiting"), LOST: _("in runs that are no longer recorded")}
        sums = [(kind, _shown(self._spent[kind]), text) for kind, text in texts.items() if self._spent[kind]]
        if self._first_start is None or len(self._attempts) == 1:
            return sums
        to_end = _("from the first start to the end") if self._job.is_finished else _("since the first start")
        sums.append(("", duration(self._end - self._first_start), to_end))
        if self._job.run_seconds is not None:
            sums.append(("", duration(self._job.run_seconds), _("in the last run")))
        return sums


def _times_of(shown: dict[str, Any]) -> StepTimes:
    step = shown["step"]
    usd = step.usd if shown["cost"] else None  # which the reader may not see
    return StepTimes(step.pk, step.name, step.started_at, step.finished_at, usd)


def _start(attempt: RecordedAttempt) -> datetime:
    """Returns when a decision was made."""
    at = attempt.started_at or attempt.finished_at
    assert at is not None
    return at


def _shown(time: timedelta) -> str:
    return duration(time) if time else ""


def _waited(time: timedelta) -> str:
    return _("waited %s") % duration(time) if time else ""
