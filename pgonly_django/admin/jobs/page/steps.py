"""The steps of a job, with their results and costs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import router
from django.db.models import Case, Count, F, Func, Q, Sum, TextField, Value, When
from django.db.models.functions import Cast, Left, Length
from django.utils.translation import gettext as _

from pgonly_django.admin.formats import money, pretty_json, shortened
from pgonly_django.admin.paging import COUNTED_AT_MOST
from pgonly_django.masking import MASK
from pgonly_django.models import CostEntry, Job
from pgonly_django.tasks.masking import JobMask

STEPS_SHOWN = 50
RESULT_SHOWN = 2_000
# A result that has names is read as a whole, to mask by them; a longer one is not shown.
MASKED_AT_MOST = 50_000


@dataclass(frozen=True, slots=True)
class ShownStep:
    pk: int
    name: str
    finished_at: datetime
    result: str
    cost: str


def steps_of(job: Job, mask: JobMask, *, sees_data: bool) -> dict[str, Any]:
    """The newest, how many there are, and what all together have cost: "" where they are too many to be added up."""
    steps = job.steps.all()
    sums = sums_of(steps)
    count = sums.pop("count")
    is_capped = count > COUNTED_AT_MOST
    return {
        "shown": [_shown(step, mask, sees_data=sees_data) for step in newest_steps(steps)],
        "count": f"{COUNTED_AT_MOST:,}+" if is_capped else f"{count:,}",
        "limit": STEPS_SHOWN,
        "cost": "" if is_capped else money(**sums),
    }


def newest_steps(steps: Any) -> Any:
    """Sorted by a column without an index, so that PostgreSQL finds the job's own rows first, by pgonly_step_once."""
    text: Any = Cast("result", TextField())
    kind = Func(F("result"), function="jsonb_typeof", output_field=TextField())
    has_names = Q(kind__in=("object", "array"))
    shown = Case(
        When(has_names & Q(size__gt=MASKED_AT_MOST), then=Value(None)),
        When(has_names, then=text),
        default=Left(text, RESULT_SHOWN, output_field=TextField()),
        output_field=TextField(),
    )
    rows = steps.order_by("-finished_at").annotate(kind=kind, size=Length(text)).annotate(text=shown)
    return rows.defer("result")[:STEPS_SHOWN]


def sums_of(steps: Any) -> dict[str, Any]:
    """Index: pgonly_step_once, COUNTED_AT_MOST rows and one more."""
    counted = steps.order_by()[: COUNTED_AT_MOST + 1]
    sums: dict[str, Any] = counted.aggregate(
        count=Count("*"), usd=Sum("usd"), tokens_in=Sum("tokens_in"), tokens_out=Sum("tokens_out")
    )
    return sums


def cost_of(job: Job) -> str:
    """Of its steps and of its other calls, as far as they are kept."""
    entries = CostEntry.objects.using(router.db_for_read(CostEntry, instance=job)).filter(job_id=job.pk)
    sums = entries.aggregate(usd=Sum("usd"), tokens_in=Sum("tokens_in"), tokens_out=Sum("tokens_out"))
    return money(**sums)


def _shown(step: Any, mask: JobMask, *, sees_data: bool) -> ShownStep:
    result = _result(step, mask) if sees_data else ""
    cost = money(step.usd, step.tokens_in, step.tokens_out)
    return ShownStep(step.pk, step.name, step.finished_at, result, cost)


def _result(step: Any, mask: JobMask) -> str:
    if mask.hides(step.name):
        return MASK
    if step.size is None:
        return "null"
    if step.text is None:
        return _("It is too long to be shown: %s characters.") % f"{step.size:,}"
    if step.kind not in ("object", "array"):
        return str(step.text)
    try:
        value = json.loads(step.text)
    except (ValueError, RecursionError):
        return _("It cannot be shown: it is nested too deeply, or has a number of thousands of digits.")
    masked = mask.value(value)
    return str(step.text)[:RESULT_SHOWN] if masked == value else shortened(pretty_json(masked), RESULT_SHOWN)
