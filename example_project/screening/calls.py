"""The calls that cost money: each is counted before it is made, and a wait between two ends when the job must stop."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from django.conf import settings
from django.utils import timezone

from example_project.screening.models import Paper, ReviewerCall
from pgonly_django import Snooze
from pgonly_django.cache import cached

if TYPE_CHECKING:
    from collections.abc import Callable

    from example_project.screening.reviewers import Reviewer

T = TypeVar("T")

CHECK_STOP_EVERY_SECONDS = 0.1


class Stoppable(Protocol):
    """The part of the job context that this module needs."""

    @property
    def should_stop(self) -> bool: ...


def ask(reviewer: Reviewer, paper: Paper, job: Stoppable) -> dict[str, Any]:
    """The reviewer's opinion of the paper, as JSON.

    With SCREENING_REUSE_ANSWERS an answer from any earlier project is reused instead of being paid for again.
    """
    return (
        cached_answer(reviewer, paper, job)
        if settings.SCREENING_REUSE_ANSWERS
        else call_reviewer(reviewer, paper, job)
    )


def call_reviewer(reviewer: Reviewer, paper: Paper, job: Stoppable) -> dict[str, Any]:
    """The call that costs money."""
    return asdict(reviewer.judge(paper.assignment(), CountedCalls(reviewer.name, paper, job)))


def answer_key(reviewer: Reviewer, paper: Paper, job: Stoppable) -> str:  # noqa: ARG001 - cached() calls it with the same arguments
    """An answer depends only on the reviewer and on the text that it was given."""
    digest = hashlib.sha256(repr(paper.assignment()).encode()).hexdigest()
    return f"answer:{reviewer.name}:{digest}"


# The durable cache keeps the answers for ever. When a caller dies during its call, another caller takes over once
# lock_timeout has passed, so lock_timeout is a little longer than the longest call.
cached_answer = cached(
    None, key=answer_key, cache="answers", lock_timeout=settings.CHAT_TIMEOUT_SECONDS + 30
)(call_reviewer)


class CountedCalls:
    """Implements the Calls protocol: writes a ReviewerCall row before each call and its outcome after it."""

    def __init__(self, reviewer: str, paper: Paper, job: Stoppable) -> None:
        self._reviewer, self._paper, self._job = reviewer, paper, job

    def make(self, function: Callable[[], T]) -> T:
        row = ReviewerCall.objects.create(paper=self._paper, reviewer=self._reviewer)
        try:
            time.sleep(settings.SCREENING_DELAY_SECONDS)
            answer = function()
        except BaseException as error:
            _close(row, type(error).__name__)
            raise
        _close(row, "answered")
        return answer

    def pause(self, seconds: float) -> None:
        """Wait. When the job must stop during the wait, raise Snooze: the job runs again once the rest has passed."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._job.should_stop:
                raise Snooze(left)
            time.sleep(min(left, CHECK_STOP_EVERY_SECONDS))


def _close(row: ReviewerCall, outcome: str) -> None:
    ReviewerCall.objects.filter(pk=row.pk).update(outcome=outcome[:40], finished_at=timezone.now())
