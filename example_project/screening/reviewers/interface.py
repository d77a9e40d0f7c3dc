"""The interface between the screening and its reviewers: what a reviewer gets and what it answers."""

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
    """Everything that a reviewer may see of a paper: no label, no publication type."""

    question: str
    criteria: str
    title: str
    abstract: str

    @property
    def text(self) -> str:
        """The title and the abstract."""
        return f"{self.title}\n{self.abstract}"


@dataclass(frozen=True, slots=True)
class Opinion:
    decision: Decision
    reason: str


class Calls(Protocol):
    """How a reviewer calls and waits: each call is counted, and a wait ends when the job must stop."""

    def make(self, function: Callable[[], T]) -> T:
        """Count one call, then make it."""

    def pause(self, seconds: float) -> None:
        """Wait. Raises when the job must stop before the time has passed."""


class Reviewer(Protocol):
    @property
    def name(self) -> str:
        """Stored with every verdict, and unique within a project."""

    def judge(self, assignment: Assignment, calls: Calls) -> Opinion:
        """Read the paper and decide. Makes one call, or more when an answer is unreadable."""
