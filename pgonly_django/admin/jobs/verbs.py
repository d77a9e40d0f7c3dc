"""The actions of people on jobs, in the list and on a job's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

from django.db.models import Q
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.base import Links
from pgonly_django.admin.verbs import Verb
from pgonly_django.exceptions import WrongArgumentsError
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
from pgonly_django.models.job_rows import LARGE_COLUMNS
from pgonly_django.monitoring.situations import in_state

# On a job's page: the first is the primary button, the next one stands beside it, and the others are in a menu.
BUTTON_ORDER = ("resume", "run_now", "cancel", "edit", "retry", "again", "hold", "discard", "delete")
BESIDE_EACH_OTHER = 2
ALWAYS_IN_MENU = ("discard", "delete")
# Columns that may be megabytes; neither the list nor a verb reads them.
IS_CANCELLING = Q(state=State.RUNNING, cancel_requested_at__isnull=False)


def is_cancelling(job: Job) -> bool:
    return job.state == State.RUNNING and job.cancel_requested_at is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobVerb(Verb):
    """A verb that is allowed in some states, and there only where `allowed` says so."""

    states: Sequence[State]


def _verb(states: Sequence[State], *, condition: Q | None = None, **texts_and_method: Any) -> JobVerb:
    return JobVerb(
        **texts_and_method,
        states=states,
        # As one part for each state, so that PostgreSQL finds the indexes of these states.
        allowed=reduce(or_, map(in_state, states)) & (condition or Q()),
        allows=lambda job: job.state in states and not is_cancelling(job),
        only_asks=lambda job: job.state == State.RUNNING,
        deferred=LARGE_COLUMNS,
    )


RESUME = _verb(
    RESUMABLE,
    name="resume",
    label=_("Resume"),
    hint=_("Continues from its last checkpoint, with the attempts that it has left."),
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
    hint=_("It does not run until a person resumes it."),
    logged=_("Held."),
)
RETRY = _verb(
    RETRYABLE,
    name="retry",
    method=lambda request, jobs: jobs.retry(forget=request.POST.getlist("forget")),
    refusals=(WrongArgumentsError,),
    label=_("Retry"),
    hint=_("Ready now, with all its attempts again, from its last checkpoint."),
    logged=_("Retried."),
    condition=key_is_free(),
    otherwise=_("A finished job whose unique key another job has is left alone."),
)
CANCEL = _verb(
    CANCELLABLE,
    name="cancel",
    label=_("Cancel"),
    hint=_(
        "A waiting job is cancelled at once; a running job is asked to stop. So are the jobs that it gathers."
    ),
    logged=_("Cancelled."),
    condition=~IS_CANCELLING,
)
DISCARD = _verb(
    DISCARDABLE,
    name="discard",
    method=lambda request, jobs: jobs.discard(
        members="keep" if request.POST.get("members") == "keep" else "cancel"
    ),
    label=_("Discard"),
    hint=_(
        "Failed now, and the jobs that it gathers are cancelled. Its dead letter is sent; it may be retried."
    ),
    logged=_("Discarded."),
)


class Button(NamedTuple):
    name: str
    label: Promise | str
    hint: Promise | str
    url: str
    is_link: bool = True  # to a page that asks first


def buttons_of(
    job: Job, links: Links, *, waits: bool, gathers: bool, may_operate: bool, may_edit: bool, may_delete: bool
) -> dict[str, list[Button]]:
    """Returns those of the job's page: `beside` each other, and in a `menu`. `waits`: for an event or a time.
    `gathers`: it has gathered jobs that have not ended, and a discard asks what becomes of them."""
    made = []
    for each in links.buttons(job):
        verb, asks = each["verb"], gathers and each["verb"] is DISCARD
        url = links.address(Job, "bulk", verb.name, id=str(job.pk)) if asks else each["url"]
        made.append(Button(verb.name, verb.label, _hint(verb, job, waits=waits), url, is_link=asks))
    pages = [
        (may_edit, "edit", _("Edit"), _("Its queue, priority, time and arguments.")),
        (may_operate, "again", _("Run again"), _("A new job with the same arguments, or with others.")),
        (may_delete, "delete", _("Delete"), _("Deletes the row with its steps, log and result.")),
    ]
    made += [
        Button(name, label, hint, links.address(Job, name, str(job.pk)))
        for may, name, label, hint in pages
        if may
    ]
    made.sort(
        key=lambda button: (
            BUTTON_ORDER.index(button.name) if button.name in BUTTON_ORDER else len(BUTTON_ORDER)
        )
    )
    beside = [button for button in made if button.name not in ALWAYS_IN_MENU][:BESIDE_EACH_OTHER]
    return {"beside": beside, "menu": [button for button in made if button not in beside]}


def _hint(verb: Verb, job: Job, *, waits: bool) -> Promise | str:
    if verb is RUN_NOW and waits:
        return _("Looks again for what it waits for.")
    if verb is not CANCEL:
        return verb.hint
    if getattr(job, "silent_for", None) is not None:
        return _("Its worker does not answer: it is cancelled instead of taken over.")
    if job.state == State.RUNNING:
        return _("Its worker is asked to stop it.")
    return _("It does not run again.") if job.started_at else _("It does not run unless a person retries it.")
