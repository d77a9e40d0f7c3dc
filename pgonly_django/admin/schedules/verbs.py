"""What a person may do to schedules, in the list and on a schedule's page."""

from __future__ import annotations

from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.verbs import Verb
from pgonly_django.scheduling.calls import RunRefusedError, run_now

RUN = Verb(
    name="run",
    method=lambda _request, schedules: run_now(schedules),
    label=_("Run now"),
    hint=_("One job now, beside its ticks, also while it is paused."),
    logged=_("Run now."),
    refusals=(RunRefusedError,),
)
PAUSE = Verb(
    name="pause",
    method=lambda _request, schedules: schedules.pause(),
    label=_("Pause"),
    hint=_("No more ticks until it is resumed; also across deploys."),
    logged=_("Paused."),
    allowed=Q(paused_at=None),
    allows=lambda schedule: schedule.paused_at is None,
)
RESUME = Verb(
    name="resume",
    method=lambda _request, schedules: schedules.resume(),
    label=_("Resume"),
    hint=_("Ticks that passed during the pause stay passed."),
    logged=_("Resumed."),
    allowed=Q(paused_at__isnull=False),
    allows=lambda schedule: schedule.paused_at is not None,
)
