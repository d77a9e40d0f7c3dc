"""What the state of a job means to people. A scheduled job waits for its time, its next attempt, a person, an event or
other jobs. Each other state is one situation."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.db.models import Case, Count, Exists, OuterRef, Q, TextField, Value, When
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Coalesce
from django.db.models.lookups import In
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from pgonly_django.models import Job, State, Wait
from pgonly_django.models.job_rows import IS_LIMITED, IS_READY, IS_SUSPECT
from pgonly_django.models.waits import FOR_PEOPLE, KEY_OF_BATCH
from pgonly_django.outcomes import TRIED_AGAIN


class Situation(NamedTuple):
    """A part of the jobs of one state."""

    name: str  # in addresses and in the stylesheet
    label: Promise | str
    state: State
    rows: Q
    heading: Promise | str = ""  # of a list of these jobs, where "Failed jobs" would read wrongly


def in_state(state: State) -> Q:
    """Filters by `state` alone, in the words of the partial indexes, so that PostgreSQL uses the one of that state."""
    conditions: dict[State, Q] = {
        State.READY: IS_READY | IS_SUSPECT | IS_LIMITED,
        State.HELD: Q(state=State.HELD, held_by__isnull=False),
    }
    return conditions.get(state, Q(state=state))


# Index of each: pgonly_wait_once, one range for each job. What is answered is about to run.
_waits: Any = Wait.objects.filter(job=OuterRef("pk"), lease_epoch=OuterRef("lease_epoch"))
_open: Any = _waits.filter(key__isnull=False).with_answers().filter(is_answered=False)
_ASKS = Exists(_open.filter(FOR_PEOPLE))
_HEARS = Exists(_open.exclude(key__regex=KEY_OF_BATCH))
_GATHERS = Exists(_open)
# `attempt` comes first: it is in the row, and a job that was never claimed has 0.
_LAST_OUTCOME = Coalesce(
    KeyTextTransform("outcome", KeyTransform(-1, "errors")), Value(""), output_field=TextField()
)
_HAS_FAILED = Q(attempt__gt=0) & Q(In(_LAST_OUTCOME, list(map(str, TRIED_AGAIN)))) & ~Q(Exists(_waits))


def _scheduled(name: str, label: Promise | str, rows: Q, heading: Promise | str = "") -> Situation:
    return Situation(name, label, State.SCHEDULED, in_state(State.SCHEDULED) & rows, heading)


SCHEDULED = _scheduled(State.SCHEDULED.value, State.SCHEDULED.label, ~Q(_GATHERS) & ~_HAS_FAILED)
RETRYING = _scheduled("retrying", _("Retrying"), _HAS_FAILED)
ASKS_A_PERSON = _scheduled("asks-person", _("Asks a person"), Q(_ASKS), _("Jobs that ask a person"))
WAITS_FOR_AN_EVENT = _scheduled(
    "waits-event", _("Waits for an event"), Q(_HEARS) & ~Q(_ASKS), _("Jobs that wait for an event")
)
WAITS_FOR_JOBS = _scheduled(
    "waits-jobs", _("Waits for jobs"), Q(_GATHERS) & ~Q(_HEARS), _("Jobs that wait for jobs")
)
PARTS_OF_SCHEDULED = (RETRYING, ASKS_A_PERSON, WAITS_FOR_AN_EVENT, WAITS_FOR_JOBS)
_BEFORE, _AFTER = (
    [Situation(state.value, state.label, state, in_state(state)) for state in states]
    for states in (
        (State.RUNNING, State.READY),
        (State.HELD, State.FAILED, State.SUCCEEDED, State.CANCELLED),
    )
)
# In the order of a job's life; what needs a person comes before what is done.
SITUATIONS = {each.name: each for each in (*_BEFORE, SCHEDULED, *PARTS_OF_SCHEDULED, *_AFTER)}
# For annotate(situation=...): the name of the situation, where the state alone does not say it.
SITUATION = Case(
    *(When(each.rows, then=Value(each.name)) for each in PARTS_OF_SCHEDULED),
    default=Value(""),
    output_field=TextField(),
)


def situation_named(job: Any) -> Situation:
    """Returns the situation of a job that was read with SITUATION; of a state that is not known, that with its name."""
    for name in (job.situation, job.state):
        if name in SITUATIONS:
            return SITUATIONS[name]
    return Situation(job.state, job.state, job.state, in_state(job.state))


def read_situation(job: Job) -> str:
    """Returns the SITUATION of a job that was read without it."""
    if job.state != State.SCHEDULED:
        return ""
    rows = Job.objects.using(job._state.db).filter(pk=job.pk)  # noqa: SLF001 - Django's own name
    return rows.values_list(SITUATION, flat=True).first() or ""


def parts_of_scheduled(alias: str, at_most: int) -> dict[str, int]:
    """Returns the counts of each situation, by its name, among the scheduled jobs that are due first, `at_most`. Index:
    pgonly_job_scheduled, and one range of pgonly_wait_once for each job."""
    names = [each.name for each in PARTS_OF_SCHEDULED]
    first = Job.objects.using(alias).filter(in_state(State.SCHEDULED)).order_by("run_at")
    found: dict[str, int] = first.annotate(situation=SITUATION)[:at_most].aggregate(
        **{f"part_{number}": Count("pk", filter=Q(situation=name)) for number, name in enumerate(names)},
        of_all=Count("pk"),
    )
    of_all, parts = found.pop("of_all"), dict(zip(names, found.values(), strict=True))
    return {SCHEDULED.name: of_all - sum(parts.values())} | parts
