"""What a person may do to limiters, in the list and on a limiter's page."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import Q
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.verbs import Verb
from pgonly_django.models.job import ClockTimestamp


def cool_down(minutes: int, label: Promise | str) -> Verb:
    return Verb(
        name=f"cool_down_{minutes}",
        method=lambda _request, limiters: limiters.cool_down(timedelta(minutes=minutes)),
        label=label,
        hint=_("No caller gets in until then, and no job of a queue that is tied to it starts."),
        logged=label,
    )


COOL_DOWN = cool_down(1, _("Cool down for 1 min"))
COOL_DOWN_LONG = cool_down(15, _("Cool down for 15 min"))
END_COOL_DOWN = Verb(
    name="end_cool_down",
    method=lambda _request, limiters: limiters.end_cool_down(),
    label=_("End the cool-down"),
    hint=_("Those who wait get in, as far as there is room."),
    logged=_("Cool-down ended."),
    allowed=Q(blocked_until__gt=ClockTimestamp()),
    allows=lambda limiter: limiter.blocked_until is not None and limiter.blocked_until > limiter.now,
)
