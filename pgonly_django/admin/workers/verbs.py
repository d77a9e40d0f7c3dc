"""What a person may do to workers, in the list, on a worker's page and in the overview."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.verbs import Verb

_OTHERWISE = _("A worker that has stopped, or is of a version that does not listen, cannot be asked.")
_STARTED = Q(stopped_at=None, version__isnull=False)


def _may_be_asked(worker: Any) -> bool:
    return worker.version is not None and worker.is_live(worker.now)


STOP = Verb(
    name="stop",
    method=lambda _request, workers: workers.stop(),
    label=_("Stop"),
    hint=_(
        "As SIGTERM does: its jobs may save a checkpoint, and are given back. A supervisor or a platform may "
        "start another one in its place."
    ),
    logged=_("Asked to stop."),
    otherwise=_OTHERWISE,
    allowed=_STARTED & Q(stop_requested_at=None),
    allows=lambda worker: worker.stop_requested_at is None and _may_be_asked(worker),
)
DRAIN = Verb(
    name="drain",
    method=lambda _request, workers: workers.drain(),
    label=_("Drain"),
    hint=_(
        "It claims no more jobs and ends once its own are finished. A supervisor or a platform may start another "
        "one in its place."
    ),
    logged=_("Asked to drain."),
    otherwise=_OTHERWISE,
    allowed=_STARTED & Q(stop_requested_at=None, drain_requested_at=None),
    allows=lambda worker: (
        worker.stop_requested_at is None and worker.drain_requested_at is None and _may_be_asked(worker)
    ),
)
