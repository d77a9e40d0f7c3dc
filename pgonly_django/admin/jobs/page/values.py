"""A job's arguments, result and checkpoint, with the secrets masked."""

from __future__ import annotations

from typing import Any

from django.db import router
from django.utils.translation import gettext as _

from pgonly_django.admin.formats import pretty_json
from pgonly_django.models import Checkpoint, Job, State
from pgonly_django.queue.checkpoints import KEYS
from pgonly_django.tasks.masking import JobMask


def values_of(job: Job, mask: JobMask) -> list[tuple[str, str, str]]:
    """Heading, JSON, and the text to show when there is none."""
    has_result = job.state == State.SUCCEEDED or job.result is not None
    no_result = _("None.") if job.is_finished else _("None yet.")
    args, kwargs = mask.args(job.task, job.args), mask.value(job.kwargs)
    metadata = mask.value(job.metadata)
    return [
        (_("Positional arguments"), pretty_json(args) if args else "", _("None.")),
        (_("Keyword arguments"), pretty_json(kwargs) if kwargs else "", _("None.")),
        *([(_("Metadata"), pretty_json(metadata), "")] if metadata else []),
        *([(_("Options set for this job"), pretty_json(job.options), "")] if job.options else []),
        (_("Result"), pretty_json(mask.value(job.result)) if has_result else "", no_result),
    ]


def checkpoint_of(job: Job, mask: JobMask, *, sees_data: bool) -> dict[str, Any] | None:
    """When it was saved; its value, "" where iterate() alone saved something; and the items that each loop has done."""
    checkpoints = Checkpoint.objects.using(router.db_for_read(Checkpoint, instance=job))
    saved = checkpoints.filter(pk=job.pk).first()
    if saved is None:
        return None
    shows_value = sees_data and saved.value is not None
    return {
        "saved_at": saved.saved_at,
        "value": pretty_json(mask.value(saved.value)) if shows_value else "",
        "positions": _positions(saved.positions),
    }


def _positions(positions: Any) -> list[tuple[str, str]]:
    """By the loops' names. What another program wrote there is shown as JSON, under no name."""
    if not positions:
        return []
    if not isinstance(positions, dict):
        return [("", pretty_json(positions))]
    counts = {name: n for name, n in positions.items() if name != KEYS}
    return [(name, f"{n:,}" if type(n) is int else pretty_json(n)) for name, n in counts.items()]
