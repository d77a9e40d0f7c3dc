"""How a run ends, defined once: all code that shows, counts, logs or reports an end asks its Outcome."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Self

from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.utils.functional import Promise

    Column = Literal["succeeded", "failed", "retried", "interrupted", "crashed"]  # of models.job_stats.Counts
    Fact = Literal["is error", "reason is ours", "has not run"]
    Tone = Literal["succeeded", "failed", "held", "scheduled", "cancelled"]  # the state whose colour it has


class Outcome(StrEnum):
    """All but SUCCEEDED and WAITING leave an entry in the job's errors."""

    label: Promise
    counts: Column | None  # where its runs are counted. Of what ends a job, "retried" counts as "failed"
    tone: Tone
    is_error: bool  # of its job, once that has failed: in the log, in traces and for Sentry
    reason_is_ours: bool  # a text of this package, in which nothing of the job's data is
    has_run: bool  # False: a worker claimed the job, and called none of its code

    def __new__(cls, word: str, label: Promise, counts: Column | None, tone: Tone, *facts: Fact) -> Self:
        member = str.__new__(cls, word)
        member._value_ = word
        member.label, member.counts, member.tone = label, counts, tone
        member.is_error, member.reason_is_ours = "is error" in facts, "reason is ours" in facts
        member.has_run = "has not run" not in facts
        return member

    # The function returned.
    SUCCEEDED = "succeeded", _("Succeeded"), "succeeded", "succeeded"
    # It raised an exception. The job is retried while attempts are left.
    FAILED = "failed", _("Failed"), "retried", "failed", "is error"
    # It ran longer than `max_runtime`. The job is retried while attempts are left.
    TIMED_OUT = "timed out", _("Timed out"), "retried", "held", "is error", "reason is ours"
    # Its worker died. The third death in a row fails the job.
    CRASHED = "crashed", _("Crashed"), "crashed", "failed", "is error", "reason is ours"
    # It raised `Retry`. In the last attempt that is `failed`.
    RETRIED = "retried", _("Asked for a retry"), "retried", "held"
    # It raised `Discard`, or a person discarded the job: it fails, whatever attempts are left.
    DISCARDED = "discarded", _("Discarded"), "failed", "failed"
    # It was cancelled.
    CANCELLED = "cancelled", _("Cancelled"), None, "cancelled"
    # It raised `Snooze`, or an error of `snooze_on`. It costs no attempt.
    SNOOZED = "snoozed", _("Snoozed"), None, "scheduled"
    # It waits for an event or a time. It costs no attempt.
    WAITING = "waiting", _("Waiting"), None, "scheduled"
    # It raised `Hold` or an error of `hold_on`, or is over its budget: a person resumes it. It costs no attempt.
    HELD = "held", _("Held"), None, "held"
    # A planned stop of its worker gave it back. It costs no attempt.
    RELEASED = "released", _("Released"), "interrupted", "held", "reason is ours"
    # Its worker does not know the task (yet). It costs no attempt.
    POSTPONED = "postponed", _("Postponed"), None, "scheduled", "reason is ours", "has not run"


ERRORS = tuple(outcome for outcome in Outcome if outcome.is_error)
NOT_RUN = tuple(outcome for outcome in Outcome if not outcome.has_run)
# After these a job waits for its next attempt.
TRIED_AGAIN = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CRASHED, Outcome.RETRIED)
