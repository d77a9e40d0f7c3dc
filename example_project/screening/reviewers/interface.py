"""The interface between the screening and its reviewers: what a reviewer gets and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
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


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one call."""

    tokens_in: int
    tokens_out: int

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


class BusyError(Exception):
    """A reviewer cannot answer now. `retry_after`: how many seconds it asked to wait, if it did. `status_code`: of its
    answer; None where there was none."""

    def __init__(self, reason: str, retry_after: float | None = None, status_code: int | None = None) -> None:
        super().__init__(reason)
        self.retry_after, self.status_code = retry_after, status_code

    @property
    def is_rate_limit(self) -> bool:
        return self.status_code == HTTPStatus.TOO_MANY_REQUESTS


class Calls(Protocol):
    """How a reviewer makes its calls: limited, paid for and counted."""

    def make(self, function: Callable[[], tuple[T, Usage | None]], most: Usage) -> T:
        """One call that takes at most about `most`. `function` returns its answer and what it took, if that is known;
        it raises BusyError to be called again later. Raises when the job must stop, or has to wait for long."""


class Reviewer(Protocol):
    @property
    def name(self) -> str:
        """Stored with every verdict, and unique within a project."""

    def judge(self, assignment: Assignment, calls: Calls) -> Opinion:
        """Read the paper and decide. Makes one call, or more when an answer is unreadable."""
