"""A number of rows that was counted up to a cap."""

from __future__ import annotations

from typing import NamedTuple


class Counted(NamedTuple):
    number: int
    has_more: bool = False  # there are more than `number`

    @property
    def label(self) -> str:
        """For people: "1,204", or "10,000+" where the cap ended it."""
        return f"{self.number:,}+" if self.has_more else f"{self.number:,}"


def capped(found: int, cap: int) -> Counted:
    """Of a statement that has counted one row beyond its cap where there was one."""
    return Counted(min(found, cap), has_more=found > cap)
