"""Attempts that a task's `snooze_on` retries without counting them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pgonly_django.context.run import Run
from pgonly_django.models.readable import entries_of

# For so long in a row an error is retried without counting. Then it counts, as any other.
FREE_FOR = timedelta(days=7)
# A backoff that returns less would claim the job again and again, and no attempt would end that.
SHORTEST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class FreeRetry:
    """The place of one in an unbroken row of them: what the job's errors keep of it."""

    in_a_row: int
    since: str

    def entry(self) -> dict[str, str | int]:
        return {"in_a_row": self.in_a_row, "since": self.since}


def next_free_retry(run: Run) -> FreeRetry | None:
    """None where the row has lasted too long. A run that has saved something new begins another row."""
    last = (entries_of(run.job.errors) or [{}])[-1]
    now, number, since = run.now().astimezone(UTC), last.get("in_a_row"), last.get("since")
    if run.got_further or not (isinstance(number, int) and isinstance(since, str)):
        return FreeRetry(1, now.isoformat())
    return None if now - datetime.fromisoformat(since) >= FREE_FOR else FreeRetry(number + 1, since)
