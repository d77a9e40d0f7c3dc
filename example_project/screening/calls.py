"""The calls that cost money: limited, paid from the project's budget, and counted before they are made."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from django.conf import settings
from django.db import Error
from django.utils import timezone

from example_project.screening.models import Paper, ReviewerCall
from example_project.screening.reviewers import BusyError, Usage
from pgonly_django import Cost, Retry, Snooze, limiter
from pgonly_django.cache import cached
from pgonly_django.exceptions import LimiterTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from example_project.screening.reviewers import Reviewer

logger = logging.getLogger(__name__)
T = TypeVar("T")
Taken = tuple[T, Usage | None]  # an answer, and the tokens that it took

CHECK_STOP_EVERY_SECONDS = 0.1
FIRST_WAIT_SECONDS = 1.0  # for a busy reviewer that does not say how long; then twice as long each time


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
    return asdict(reviewer.judge(paper.assignment(), PaidCalls(reviewer.name, paper, job)))


def answer_key(reviewer: Reviewer, paper: Paper, job: Stoppable) -> str:  # noqa: ARG001 - cached() calls it with the same arguments
    """An answer depends only on the reviewer and on the text that it was given."""
    digest = hashlib.sha256(repr(paper.assignment()).encode()).hexdigest()
    return f"answer:{reviewer.name}:{digest}"


# The durable cache keeps the answers for ever. When a caller dies during its call, another caller takes over once
# lock_timeout has passed, so lock_timeout is a little longer than the longest call with its waits.
LONGEST_SECONDS = 2 * settings.CHAT_TIMEOUT_SECONDS + settings.CHAT_PATIENCE_SECONDS + 30
cached_answer = cached(None, key=answer_key, cache="answers", lock_timeout=LONGEST_SECONDS)(call_reviewer)


class PaidCalls:
    """Implements the Calls protocol. A call waits for its turn in the reviewer's limiter, reserves from the project's
    budget what it may cost, and has a ReviewerCall row that is committed before the call and closed after it."""

    def __init__(self, reviewer: str, paper: Paper, job: Stoppable) -> None:
        self._reviewer, self._paper, self._job = reviewer, paper, job

    def make(self, function: Callable[[], Taken[T]], most: Usage) -> T:
        """See Calls. When all waits together take longer than CHAT_PATIENCE_SECONDS the job gives its slot back:
        Snooze, which costs no attempt, where the reviewer asked to wait, else Retry. JobHeld when the budget is used
        up."""
        waited, wait = 0.0, FIRST_WAIT_SECONDS
        while True:
            try:
                return self._limited(function, most, max(settings.CHAT_PATIENCE_SECONDS - waited, 0.0))
            except LimiterTimeoutError as full:
                raise Snooze(settings.CHAT_PATIENCE_SECONDS) from full
            except BusyError as busy:
                wait = busy.retry_after if busy.retry_after is not None else wait * 2
                if waited + wait > settings.CHAT_PATIENCE_SECONDS:
                    if busy.is_rate_limit:
                        raise Snooze(wait) from busy
                    raise Retry(wait, f"{self._reviewer} is busy: {busy}") from busy
            self._pause(wait)
            waited += wait

    def _limited(self, function: Callable[[], Taken[T]], most: Usage, timeout: float) -> T:
        """One call in its turn. An answer 429 stops all workers for as long as it says."""
        with limiter(self._reviewer, tokens=most.tokens, timeout=timeout) as use:
            try:
                answer, usage = self._paid(function, most)
            except BusyError as busy:
                if busy.is_rate_limit:
                    use.too_many_requests(busy)
                raise
            use.tokens = None if usage is None else usage.tokens
        return answer

    def _paid(self, function: Callable[[], Taken[T]], most: Usage) -> Taken[T]:
        """One call out of the project's budget. Where the reviewer does not say what it took, the reserved amount
        counts as spent. The block makes no other request, so one that was refused costs nothing."""
        step = f"{self._reviewer} on paper {self._paper.position}"
        with self._paper.project.budget().reserve(price(most), step=step, one_call=True) as reservation:
            answer, usage = self._counted(function)
            if usage is not None:
                cost = Cost(price(usage), usage.tokens_in, usage.tokens_out, model=self._reviewer)
                reservation.settle(cost)
        return answer, usage

    def _counted(self, function: Callable[[], Taken[T]]) -> Taken[T]:
        row = ReviewerCall.objects.create(paper=self._paper, reviewer=self._reviewer)
        try:
            time.sleep(settings.SCREENING_DELAY_SECONDS)
            pretend_to_be_busy(row)
            answer = function()
        except BaseException as error:
            _close(row, type(error).__name__)
            raise
        _close(row, "answered")
        return answer

    def _pause(self, seconds: float) -> None:
        """Wait. When the job must stop during the wait, raise Snooze: the job runs again once the rest has passed."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._job.should_stop:
                raise Snooze(left)
            time.sleep(min(left, CHECK_STOP_EVERY_SECONDS))


def price(usage: Usage) -> Decimal:
    """In US dollars."""
    dollars = (
        usage.tokens_in * settings.SCREENING_USD_PER_MILLION_IN
        + usage.tokens_out * settings.SCREENING_USD_PER_MILLION_OUT
    )
    return Decimal(str(dollars)) / 1_000_000


def pretend_to_be_busy(row: ReviewerCall) -> None:
    """For the demo: an answer 429 when the first reviewer is first asked about SCREENING_BUSY_PAPER."""
    if row.paper_id != settings.SCREENING_BUSY_PAPER or row.reviewer != row.paper.project.reviewers[0]:
        return
    if not ReviewerCall.objects.filter(paper=row.paper_id, reviewer=row.reviewer, pk__lt=row.pk).exists():
        raise BusyError("429 too many requests (pretended)", settings.SCREENING_BUSY_SECONDS, 429)


def _close(row: ReviewerCall, outcome: str) -> None:
    """Hides neither the answer, which was paid for, nor the error: without PostgreSQL the row stays open, as that of a
    killed process does."""
    try:
        ReviewerCall.objects.filter(pk=row.pk).update(outcome=outcome[:40], finished_at=timezone.now())
    except Error:
        logger.exception("The call of %s stays open in the list of calls.", row.reviewer)
