"""A figure with its floor and its target, as a line of a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """`ours` and `floor` in `unit`. `target` is the least ratio, `ratio_at_most` the largest; `at_most` and `at_least`
    bound our own value."""

    name: str
    unit: str
    ours: float
    floor: float | None = None
    target: float | None = None
    ratio_at_most: float | None = None
    at_most: float | None = None
    at_least: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.floor is None else self.ours / self.floor

    @property
    def verdict(self) -> str:
        if self.at_most is not None:
            return _verdict(self.ours <= self.at_most, f"at most {self.at_most:g}")
        if self.at_least is not None:
            return _verdict(self.ours >= self.at_least, f"at least {self.at_least:g}")
        if self.target is not None and self.ratio is not None:
            return _verdict(self.ratio >= self.target, f"ratio of at least {self.target:g}")
        if self.ratio_at_most is not None and self.ratio is not None:
            return _verdict(self.ratio <= self.ratio_at_most, f"ratio of at most {self.ratio_at_most:g}")
        return ""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "pgonly": self.ours,
            "floor": self.floor,
            "ratio": self.ratio,
            "verdict": self.verdict or None,
        }


def _verdict(reached: bool, what: str) -> str:
    return f"{'reached' if reached else 'MISSED'} ({what})"


def print_table(title: str, figures: Sequence[Figure], against: str = "floor") -> None:
    print(f"\n{title:<34} {'pgonly':>10} {against:>10} {'ratio':>6}")
    for figure in figures:
        floor = "" if figure.floor is None else _number(figure.floor)
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        name = f"{figure.name}, {figure.unit}"
        print(f"{name:<34} {_number(figure.ours):>10} {floor:>10} {ratio:>6}  {figure.verdict}", flush=True)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
