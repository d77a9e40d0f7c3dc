"""What every reviewer reads and says: the one interface between the screening and its judges."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Decision(StrEnum):
    INCLUDE = "include"
    EXCLUDE = "exclude"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Assignment:
    """All that a reviewer may see of a paper: no label, no publication type."""

    question: str
    criteria: str
    title: str
    abstract: str

    @property
    def text(self) -> str:
        """Title and abstract in one."""
        return f"{self.title}\n{self.abstract}"


@dataclass(frozen=True, slots=True)
class Opinion:
    decision: Decision
    reason: str


class Calls(Protocol):
    """How a reviewer makes its calls, so that each is counted, and waits, so that a stop is heard."""

    def make(self, function: Callable[[], T]) -> T:
        """One call: counted before it is made, whatever becomes of it."""

    def pause(self, seconds: float) -> None:
        """Wait. Raises when the job has to end meanwhile."""


class Reviewer(Protocol):
    @property
    def name(self) -> str:
        """Stored with every verdict; two reviewers of a project never share one."""

    def judge(self, assignment: Assignment, calls: Calls) -> Opinion:
        """Read the paper and decide. Makes one call, or more when an answer cannot be read."""
