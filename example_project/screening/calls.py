"""The calls that cost money: counted one by one, paced, and open to a stop while they wait."""

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

LISTEN_EVERY_SECONDS = 0.1


class Stoppable(Protocol):
    """The part of the job's context that is needed here."""

    @property
    def should_stop(self) -> bool: ...


def ask(reviewer: Reviewer, paper: Paper, job: Stoppable) -> dict[str, Any]:
    """What `reviewer` says of `paper`, as JSON. Asked the same before, in whatever project, it is not paid again."""
    return (
        kept_answer(reviewer, paper, job) if settings.SCREENING_REUSE_ANSWERS else pay(reviewer, paper, job)
    )


def pay(reviewer: Reviewer, paper: Paper, job: Stoppable) -> dict[str, Any]:
    """The call that costs money."""
    return asdict(reviewer.judge(paper.assignment(), CountedCalls(reviewer.name, paper, job)))


def answer_key(reviewer: Reviewer, paper: Paper, job: Stoppable) -> str:  # noqa: ARG001 - called as pay() is
    """An answer depends on who is asked and on what was given to read, and on nothing else."""
    digest = hashlib.sha256(repr(paper.assignment()).encode()).hexdigest()
    return f"answer:{reviewer.name}:{digest}"


# In the durable cache, for ever. Whoever died while asking is replaced after the lock's time, so that is a little
# more than one call may take.
kept_answer = cached(None, key=answer_key, cache="answers", lock_timeout=settings.CHAT_TIMEOUT_SECONDS + 30)(
    pay
)


class CountedCalls:
    """Writes a ReviewerCall before each call and closes it after; see the Calls protocol."""

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
        """Wait. A job that has to end meanwhile goes back (Snooze) and comes again when the wait is over."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._job.should_stop:
                raise Snooze(left)
            time.sleep(min(left, LISTEN_EVERY_SECONDS))


def _close(row: ReviewerCall, outcome: str) -> None:
    ReviewerCall.objects.filter(pk=row.pk).update(outcome=outcome[:40], finished_at=timezone.now())
