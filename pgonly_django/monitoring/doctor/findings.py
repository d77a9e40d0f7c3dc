"""What the doctor finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    ERROR = "error"  # jobs or data are at stake now
    WARNING = "warning"  # it costs time or space, or will become an error
    INFO = "info"  # worth knowing; also what could not be seen


# The worst first.
ORDER = (Level.ERROR, Level.WARNING, Level.INFO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`id` is stable, and explained in docs/how-to/doctor.md."""

    id: str
    level: Level
    fact: str  # what was found, with the number
    advice: str  # what to do: the command or the SQL
    data: dict[str, Any] = field(default_factory=dict)  # the same for programs, as JSON can hold it
    subject: str = ""  # its name; examine() fills it in

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "level": self.level.value}


def is_as_bad_as(level: Level, limit: Level) -> bool:
    return ORDER.index(level) <= ORDER.index(limit)
