"""Bar charts as SVG, drawn by templates/admin/pgonly_django/overview/chart.html. Colours come from the stylesheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640.0, 160.0
GAP = 0.15  # of a bar's width
SMALLEST = 2.0  # so that one failure among ten thousand is seen


@dataclass(frozen=True, slots=True)
class Bar:
    """What one part of the time has, from the bottom up: (kind, number). A kind picks the colour."""

    label: str
    values: Sequence[tuple[str, int]]

    @property
    def total(self) -> int:
        return sum(number for _kind, number in self.values)


@dataclass(frozen=True, slots=True)
class Rect:
    """Coordinates as text: a template would write them as the reader's language writes numbers."""

    kind: str
    x: str
    y: str
    width: str
    height: str


@dataclass(frozen=True, slots=True)
class Column:
    label: str
    rects: list[Rect]


@dataclass(frozen=True, slots=True)
class Chart:
    bars: Sequence[Bar]
    top: int  # what the upper edge stands for
    columns: list[Column]

    @property
    def view_box(self) -> str:
        return f"0 0 {WIDTH:g} {HEIGHT:g}"


def bar_chart(bars: Sequence[Bar]) -> Chart:
    top = nice(max((bar.total for bar in bars), default=0))
    width = WIDTH / max(len(bars), 1)
    columns = [_column(bar, place * width, width, top) for place, bar in enumerate(bars)]
    return Chart(bars, top, columns)


def _column(bar: Bar, left: float, width: float, top: int) -> Column:
    rects: list[Rect] = []
    lower = HEIGHT
    for kind, number in bar.values:
        if number <= 0:
            continue
        height = min(max(number / top * HEIGHT, SMALLEST), lower)
        lower -= height
        x, narrow = left + width * GAP / 2, width * (1 - GAP)
        rects.append(Rect(kind, *(f"{value:.2f}" for value in (x, lower, narrow, height))))
    return Column(bar.label, rects)


def nice(number: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on."""
    power = 1
    while True:
        for step in (1, 2, 5):
            if step * power >= number:
                return step * power
        power *= 10
