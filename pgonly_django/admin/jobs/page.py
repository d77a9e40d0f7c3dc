"""What the page of one job shows, in a bounded number of queries."""

from __future__ import annotations

from typing import Any, TypeGuard

from django.db import router
from django.db.models import QuerySet, Sum, TextField
from django.db.models.functions import Cast, Left
from django.utils import timezone
from django.utils.translation import gettext as _

from pgonly_django.admin.formats import as_text, exact_time, money, pretty_json, short_duration
from pgonly_django.admin.jobs.timeline import attempts_of, log_lines, timeline
from pgonly_django.admin.paging import count_label
from pgonly_django.conf import LONGEST
from pgonly_django.models import Checkpoint, CostEntry, Job, State, Step, Worker

STEPS_SHOWN = 50
STEP_RESULT_SHOWN = 2_000
MESSAGE_SHOWN = 1_000
DIGEST_SHOWN = 8
LARGEST_FIGURE = 1e300  # so that done / total can be computed


def page_context(job: Job) -> dict[str, Any]:
    """For the template change_form.html."""
    worker = _worker_name(job)
    attempts = attempts_of(job, worker)
    steps = job.steps.all()
    return {
        "job": job,
        "facts": _facts(job, worker),
        "progress": progress_of(job),
        "timeline": timeline(job, attempts),
        "attempts": attempts[::-1],
        "values": _values(job),
        "checkpoint": _checkpoint(job),
        "steps": [(step, money(step.usd, step.tokens_in, step.tokens_out)) for step in newest_steps(steps)],
        "steps_count": count_label(steps),
        "steps_shown": STEPS_SHOWN,
        "log": log_lines(job),
    }


def newest_steps(steps: QuerySet[Step]) -> QuerySet[Step]:
    """Sorted by a column without an index, so that PostgreSQL finds the job's own rows first, by pgonly_step_once."""
    preview = Left(Cast("result", TextField()), STEP_RESULT_SHOWN)
    return steps.order_by("-finished_at").annotate(preview=preview).defer("result")[:STEPS_SHOWN]


def progress_of(job: Job) -> dict[str, Any] | None:
    """`done`, `total`, both as `figures`, and `message`. None when the job reported nothing that can be shown."""
    reported = job.progress if isinstance(job.progress, dict) else {}
    done, total = reported.get("done"), reported.get("total")
    counted = _is_figure(done)
    measured = counted and _is_figure(total) and total > 0
    message = as_text(reported.get("message") or "", MESSAGE_SHOWN)
    if not counted and not message:
        return None
    figures = [f"{number:,}" for number, known in ((done, counted), (total, measured)) if known]
    return {
        "done": done if counted else None,
        "total": total if measured else None,
        "figures": " / ".join(figures),
        "message": message,
    }


def _is_figure(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and abs(value) < LARGEST_FIGURE


def _worker_name(job: Job) -> str:
    if job.worker_id is None:
        return ""
    workers = Worker.objects.using(router.db_for_read(Worker, instance=job))
    name = workers.filter(pk=job.worker_id).values_list("name", flat=True).first()
    return name or _("unknown (%s)") % job.worker_id


def _facts(job: Job, worker: str) -> list[tuple[str, Any]]:
    """Label and value; facts without a value are left out."""
    facts: list[tuple[str, Any]] = [
        (_("Id"), job.pk),
        (_("Task"), job.task),
        (_("Queue"), job.queue),
        (_("Priority"), job.priority),
        (_("Backend"), job.backend),
        (_("Held by"), job.held_by),
        (_("Cost"), _cost(job)),
        (_("Concurrency key"), _concurrency(job)),
        (_("Slots"), job.slots if (job.slots or 1) > 1 else None),
        (_("Unique key"), _unique_key(job)),
        (_("Its key counts"), _key_counts(job)),
        (_("Attempts"), f"{job.attempt} / {job.max_attempts}"),
        (_("Interruptions"), job.interruptions or None),
        (_("Crashes"), job.crashes or None),
        (_("Worker"), worker if job.state == State.RUNNING else None),
        (_("Lease"), _lease(job)),
        (_("Maximum run time"), job.max_runtime and short_duration(job.max_runtime)),
        (_("Kept after it finished"), short_duration(job.retention) if job.retention else _("for ever")),
        (_("Kept if it fails"), _failed_retention(job)),
        (_("Dead letter queue"), job.dead_letter_queue),
    ]
    return [(label, value) for label, value in facts if value not in (None, "")]


def _failed_retention(job: Job) -> str | None:
    if job.failed_retention is None:
        return None
    return _("for ever") if job.failed_retention > LONGEST else short_duration(job.failed_retention)


def _concurrency(job: Job) -> str | None:
    if job.concurrency_key is None:
        return None
    return _("%(key)s, %(limit)d at a time") % {
        "key": job.concurrency_key,
        "limit": job.concurrency_limit or 1,
    }


def _unique_key(job: Job) -> str | None:
    """Its hash shortened."""
    head, mark, digest = (job.unique_key or "").rpartition(" #")
    return f"{head} #{digest[:DIGEST_SHOWN]}…" if mark and len(digest) > DIGEST_SHOWN else job.unique_key


def _key_counts(job: Job) -> str | None:
    """For how long no second job may have its unique key."""
    if job.unique_key is None:
        return None
    words = {"waiting": _("until it is claimed"), "unfinished": _("until it has finished")}
    until = words.get(job.unique_while or "", _("as long as it is kept"))
    if job.unique_until is None:
        return until
    return _("%(until)s, but not after %(time)s") % {"until": until, "time": exact_time(job.unique_until)}


def _cost(job: Job) -> str | None:
    """Of its steps and of its other calls, as far as they are kept."""
    entries = CostEntry.objects.using(router.db_for_read(CostEntry, instance=job)).filter(job_id=job.pk)
    sums = entries.aggregate(usd=Sum("usd"), tokens_in=Sum("tokens_in"), tokens_out=Sum("tokens_out"))
    return money(**sums) or None


def _lease(job: Job) -> str | None:
    if job.state != State.RUNNING or job.lease_expires_at is None:
        return None
    left = job.lease_expires_at - timezone.now()
    if left.total_seconds() < 0:
        return _("expired %s ago") % short_duration(-left)
    return _("%s left") % short_duration(left)


def _values(job: Job) -> list[tuple[str, str, str]]:
    """Heading, JSON, and the text to show when there is none."""
    has_result = job.state == State.SUCCEEDED or job.result is not None
    no_result = _("None.") if job.is_finished else _("None yet.")
    return [
        (_("Positional arguments"), pretty_json(job.args) if job.args else "", _("None.")),
        (_("Keyword arguments"), pretty_json(job.kwargs) if job.kwargs else "", _("None.")),
        *([(_("Options set for this job"), pretty_json(job.options), "")] if job.options else []),
        (_("Result"), pretty_json(job.result) if has_result else "", no_result),
    ]


def _checkpoint(job: Job) -> dict[str, Any] | None:
    checkpoints = Checkpoint.objects.using(router.db_for_read(Checkpoint, instance=job))
    saved = checkpoints.filter(pk=job.pk).first()
    if saved is None:
        return None
    return {
        "saved_at": saved.saved_at,
        "value": pretty_json(saved.value),
        "positions": pretty_json(saved.positions) if saved.positions else "",
    }
