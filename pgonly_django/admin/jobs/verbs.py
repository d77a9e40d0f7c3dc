"""What a person may do to jobs, in the list and on a job's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.jobs.filters import in_state
from pgonly_django.admin.verbs import Verb
from pgonly_django.models import Job, State
from pgonly_django.models.job import (
    CANCELLABLE,
    DISCARDABLE,
    HOLDABLE,
    RESUMABLE,
    RETRYABLE,
    STARTABLE,
    key_is_free,
)

# Columns that may be megabytes; neither the list nor a verb reads them.
LARGE = ("args", "kwargs", "options", "result", "errors", "log")
IS_CANCELLING = Q(state=State.RUNNING, cancel_requested_at__isnull=False)


def is_cancelling(job: Job) -> bool:
    return job.state == State.RUNNING and job.cancel_requested_at is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobVerb(Verb):
    """One that is allowed in some states, and there only where `allowed` says so."""

    states: Sequence[State]


def _verb(states: Sequence[State], *, condition: Q | None = None, **texts_and_method: Any) -> JobVerb:
    return JobVerb(
        **texts_and_method,
        states=states,
        # As one part for each state, so that PostgreSQL finds the indexes of these states.
        allowed=reduce(or_, map(in_state, states)) & (condition or Q()),
        allows=lambda job: job.state in states and not is_cancelling(job),
        only_asks=lambda job: job.state == State.RUNNING,
        deferred=LARGE,
    )


RESUME = _verb(
    RESUMABLE,
    name="resume",
    label=_("Resume"),
    hint=_("Goes on from its last checkpoint, with the attempts that it has left."),
    logged=_("Resumed."),
)
RUN_NOW = _verb(
    STARTABLE,
    name="run_now",
    label=_("Run now"),
    hint=_("Ready now instead of at its time, with the attempts that it has left."),
    logged=_("Made ready before its time."),
)
HOLD = _verb(
    HOLDABLE,
    name="hold",
    method=lambda request, jobs: jobs.hold(f"Held by {request.user}."),
    label=_("Hold"),
    hint=_("It does not run until somebody resumes it."),
    logged=_("Held."),
)
RETRY = _verb(
    RETRYABLE,
    name="retry",
    label=_("Retry"),
    hint=_("Ready now, with all its attempts again, from its last checkpoint."),
    logged=_("Retried."),
    condition=key_is_free(),
    otherwise=_("A finished job whose unique key another job has by now is left alone."),
)
CANCEL = _verb(
    CANCELLABLE,
    name="cancel",
    label=_("Cancel"),
    hint=_("A waiting job is cancelled at once; a running job is asked to stop."),
    logged=_("Cancelled."),
    condition=~IS_CANCELLING,
)
DISCARD = _verb(
    DISCARDABLE,
    name="discard",
    label=_("Discard"),
    hint=_("Failed now, without another attempt. Its dead letter is sent, and it may be retried."),
    logged=_("Discarded."),
)
