"""What a person may do to queues, in the list and on a queue's page."""

from __future__ import annotations

from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.verbs import Verb

PAUSE = Verb(
    name="pause",
    method=lambda _request, queues: queues.pause(),
    label=_("Pause"),
    hint=_("No further job of it starts; running jobs go on."),
    logged=_("Paused."),
    allowed=Q(paused_at=None),
    allows=lambda queue: queue.paused_at is None,
)
RESUME = Verb(
    name="resume",
    method=lambda _request, queues: queues.resume(),
    label=_("Resume"),
    hint=_("Its jobs start again, as far as its limits allow."),
    logged=_("Resumed."),
    allowed=Q(paused_at__isnull=False),
    allows=lambda queue: queue.paused_at is not None,
)
