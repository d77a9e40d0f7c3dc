"""What the page of one job shows, in a bounded number of queries."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import router
from django.db.models import Case, Count, DecimalField, F, Func, Q, Sum, TextField, Value, When
from django.db.models.functions import Cast, Left, Length
from django.utils import timezone
from django.utils.translation import gettext as _

from pgonly_django.admin.base import Links
from pgonly_django.admin.formats import duration, exact_time, money, pretty_json, shortened, tokens, whole
from pgonly_django.admin.jobs.attempts import attempts_of, folded, log_lines
from pgonly_django.admin.jobs.data import progress_of
from pgonly_django.admin.jobs.members import members_of
from pgonly_django.admin.jobs.related import batches_of, gathered_by, related_jobs
from pgonly_django.admin.jobs.silence import silence_of
from pgonly_django.admin.jobs.waits import reasons_to_wait
from pgonly_django.admin.jobs.waterfall import StepTimes, Waterfall
from pgonly_django.admin.paging import COUNTED_AT_MOST, label_of
from pgonly_django.conf import FAILED_RETENTION, LONGEST
from pgonly_django.masking import MASK
from pgonly_django.models import Checkpoint, CostEntry, Job, State
from pgonly_django.models.budget import HELD_BY
from pgonly_django.models.readable import read_json
from pgonly_django.queue.carried import SHOWN
from pgonly_django.queue.output import read_output
from pgonly_django.tasks.masking import JobMask

DIGEST_SHOWN = 8
CHARACTERS_SHOWN = 20_000
STEPS_SHOWN, RESULT_SHOWN = 50, 2_000
# A result that has names is read as a whole, to mask by them; a longer one is not shown.
MASKED_AT_MOST = 50_000
COST = {"usd": Sum("usd"), "tokens_in": Sum("tokens_in"), "tokens_out": Sum("tokens_out")}


def page_context(job: Any, links: Links, *, sees_data: bool) -> dict[str, Any]:
    """Returns the context of change_form.html. The job has `worker_name` and `silent_for`. `sees_data`: what it was
    called with and returned may be shown."""
    mask, sees_costs = JobMask(), links.may_view(CostEntry)
    is_silent = job.silent_for is not None
    attempts = attempts_of(job, job.worker_name, sees_data=sees_data)
    if is_silent and attempts:
        attempts[-1].finished_at = timezone.now() - job.silent_for
    steps = steps_of(job, mask, sees_data=sees_data, sees_costs=sees_costs)
    hides_keys = not sees_data or mask.hides_of(job.task, job.args, job.kwargs)
    waits = reasons_to_wait(job, links, hides_keys=hides_keys)
    batches = batches_of(job)
    gathered = [batch.pk for batch in batches if batch.parent_id == job.pk and batch.finished_at is None]
    return {
        "job": job,
        "sees_data": sees_data,
        "facts": facts_of(
            job, hides_keys=hides_keys, sees_costs=sees_costs, is_due=bool(waits and waits["is_due"])
        ),
        "related": related_jobs(job, links, batches),
        "gathers": bool(gathered),
        "members": members_of(gathered, links, sees_data=sees_data) if gathered else [],
        "waits": waits,
        "silence": silence_of(job, links) if is_silent else None,
        "progress": [
            *filter(None, [progress_of(job, sees_data=sees_data, is_silent=is_silent)]),
            *gathered_by(job, links, batches),
        ],
        "timeline": Waterfall(
            job, attempts, steps["shown"], steps["times"], waits["since"] if waits else None
        ),
        "attempts": [each for each in folded(attempts)[::-1] if each.newest.cause or each.newest.traceback],
        "values": values_of(job, mask) if sees_data else [],
        "checkpoint": checkpoint_of(job, mask, sees_data=sees_data),
        "steps": steps,
        "output": output_of(job) if sees_data else None,
        "log": log_lines(job) if sees_data else [],
    }


def facts_of(job: Any, *, hides_keys: bool, sees_costs: bool, is_due: bool) -> list[tuple[str, Any]]:
    """Returns labels and values; facts without a value are left out. `hides_keys`: the arguments that keys were made of
    may not be seen. `is_due`: it is scheduled for its run_at, and waits for nothing else."""
    facts: list[tuple[str, Any]] = [
        (_("Id"), job.pk),
        (_("Task"), job.task),
        (_("Queue"), job.queue),
        (_("Priority"), job.priority),
        (_("Backend"), job.backend),
        (_("Held by"), _held_by(job)),
        (_("Cost"), _cost(job) if sees_costs else None),
        (_("Concurrency key"), _concurrency(job, hides_key=hides_keys)),
        (_("Slots"), job.slots if (job.slots or 1) > 1 else None),
        (_("Unique key"), _unique_key(job, hides_key=hides_keys)),
        (_("Its key counts"), _key_counts(job)),
        (_("Attempts used"), f"{job.attempt} / {job.max_attempts}"),
        (_("Interruptions"), job.interruptions or None),
        (_("Crashes"), job.crashes or None),
        (_("Worker"), job.worker_name if job.state == State.RUNNING else None),
        (_("Lease"), _lease(job)),
        (_("Maximum run time"), job.max_runtime and duration(job.max_runtime)),
        *_times(job, is_due=is_due),
        *_kept(job),
        (_("Dead letter queue"), job.dead_letter_queue),
        (_("Then"), _then(job)),
    ]
    return [(label, value) for label, value in facts if value not in (None, "")]


def _then(job: Job) -> str | None:
    """Returns what becomes of the job that follows it."""
    if job.then_job is None:
        return None
    words = _("%s is enqueued when it succeeds")
    if job.is_finished:
        has_succeeded = job.state == State.SUCCEEDED
        words = _("%s was enqueued") if has_succeeded else _("%s was not enqueued: its chain ended here")
    return words % (job.then_job.get("task") or "?")


def _held_by(job: Job) -> str:
    by = job.held_by or ""
    return _("the budget “%s”") % by.removeprefix(HELD_BY) if by.startswith(HELD_BY) else by


def _cost(job: Job) -> str:
    """Returns the cost of its steps and of its other calls, as far as they are kept."""
    entries = CostEntry.objects.using(router.db_for_read(CostEntry, instance=job)).filter(job_id=job.pk)
    return money(**entries.aggregate(**COST))


def _times(job: Job, *, is_due: bool) -> list[tuple[str, str]]:
    times = [
        (_("Enqueued"), job.enqueued_at),
        (_("Due"), job.run_at if is_due else None),
        (_("First started"), job.started_at),
        (_("Cancel requested"), job.cancel_requested_at),
        (_("Finished"), job.finished_at),
        (_("Dead letter sent"), job.dead_lettered_at),
        (_("Deleted after"), job.delete_after),
    ]
    return [(label, exact_time(moment)) for label, moment in times if moment is not None]


def _kept(job: Job) -> list[tuple[str, str]]:
    """Returns how long its row is kept: what holds now, and for an unfinished job also what holds if it fails."""
    if_it_fails = job.failed_retention or (job.retention and max(job.retention, FAILED_RETENTION))
    if job.state == State.FAILED:
        label = _("Kept after it finished") if job.failed_retention is None else _("Kept if it fails")
        return [(label, _time_kept(if_it_fails))]
    kept = _time_kept(job.retention)
    if job.is_finished:
        return [(_("Kept after it finished"), kept)]
    return [(_("Kept after it finishes"), kept), (_("Kept if it fails"), _time_kept(if_it_fails))]


def _time_kept(time: timedelta | None) -> str:
    return duration(time) if time and time <= LONGEST else _("forever")


def _concurrency(job: Job, *, hides_key: bool) -> str | None:
    if job.concurrency_key is None:
        return None
    facts = {"key": MASK if hides_key else job.concurrency_key, "limit": job.concurrency_limit or 1}
    return _("%(key)s, %(limit)d at a time") % facts


def _unique_key(job: Job, *, hides_key: bool) -> str | None:
    """Returns its hash shortened. Of a hidden one not even that: it would reveal all of a short secret."""
    if hides_key and job.unique_key is not None:
        return MASK
    head, mark, digest = (job.unique_key or "").rpartition(" #")
    return f"{head} #{digest[:DIGEST_SHOWN]}…" if mark and len(digest) > DIGEST_SHOWN else job.unique_key


def _key_counts(job: Job) -> str | None:
    if job.unique_key is None:
        return None
    words = {"waiting": _("until it is claimed"), "unfinished": _("until it has finished")}
    until = words.get(job.unique_while or "", _("as long as it is kept"))
    if job.unique_until is None:
        return until
    return _("%(until)s, but not after %(time)s") % {"until": until, "time": exact_time(job.unique_until)}


def _lease(job: Job) -> str | None:
    if job.state != State.RUNNING or job.lease_expires_at is None:
        return None
    left = job.lease_expires_at - timezone.now()
    return (_("expired %s ago") if left < timedelta(0) else _("%s left")) % whole(abs(left))


def values_of(job: Job, mask: JobMask) -> list[tuple[str, str, str]]:
    """Returns heading, JSON, and the text to show when there is none; at the end the columns that cannot be read."""
    has_result = job.state == State.SUCCEEDED or job.result is not None
    no_result = _("None.") if job.is_finished else _("None yet.")
    args, kwargs = mask.args(job.task, job.args), mask.value(job.kwargs)
    odd = mask.odd(job)
    carried = {name: mask.value(getattr(job, name)) for name in SHOWN}
    readable = [
        ("args", _("Positional arguments"), pretty_json(args) if args else "", _("None.")),
        ("kwargs", _("Keyword arguments"), pretty_json(kwargs) if kwargs else "", _("None.")),
        *((name, _(name.capitalize()), pretty_json(each), "") for name, each in carried.items() if each),
        *([("options", _("Options set for this job"), pretty_json(job.options), "")] if job.options else []),
        ("result", _("Result"), pretty_json(mask.value(job.result)) if has_result else "", no_result),
    ]
    unreadable = [(_("Unreadable: %s") % name, pretty_json(value), "") for name, value in odd.items()]
    return [(heading, text, empty) for name, heading, text, empty in readable if name not in odd] + unreadable


def checkpoint_of(job: Job, mask: JobMask, *, sees_data: bool) -> dict[str, Any] | None:
    """Returns when it was saved; its value, "" where iterate() alone saved something; and the items that each loop has
    done."""
    checkpoints = Checkpoint.objects.using(router.db_for_read(Checkpoint, instance=job))
    saved = checkpoints.filter(pk=job.pk).first()
    if saved is None:
        return None
    shows_value = sees_data and saved.value is not None
    done = {name: at[0] if isinstance(at, list) else at for name, at in saved.positions.items()}
    return {
        "saved_at": saved.saved_at,
        "value": pretty_json(mask.value(saved.value)) if shows_value else "",
        "positions": [(name, f"{count:,}") for name, count in done.items()],
    }


def output_of(job: Job) -> dict[str, Any]:
    """Returns the end of the text, and the number of its characters; PGONLY["OUTPUT_LIMIT"] bounds them."""
    text = read_output(router.db_for_read(Job, instance=job), job.pk).applied_to("")
    is_cut = len(text) > CHARACTERS_SHOWN
    return {"end": text[-CHARACTERS_SHOWN:], "is_cut": is_cut, "length": f"{len(text):,}"}


def steps_of(job: Job, mask: JobMask, *, sees_data: bool, sees_costs: bool) -> dict[str, Any]:
    """Returns the newest, their number, and what all together have cost: "" where they are too many to be added up."""
    steps = job.steps.all()
    sums = sums_of(steps)
    count = sums.pop("count")
    return {
        "shown": [
            {
                "step": step,
                "result": _result(step, mask) if sees_data else "",
                "cost": money(step.usd) if sees_costs else "",
                "tokens": tokens(step.tokens_in, step.tokens_out) if sees_costs else "",
            }
            for step in newest_steps(steps)
        ],
        "times": times_of(steps, sees_costs=sees_costs) if count > STEPS_SHOWN else [],
        "count": label_of(count),
        "is_cut": count > STEPS_SHOWN,
        "limit": STEPS_SHOWN,
        "cost": money(**sums) if sees_costs and count <= COUNTED_AT_MOST else "",
    }


def sums_of(steps: Any) -> dict[str, Any]:
    """Returns the sums. Index: pgonly_step_once, COUNTED_AT_MOST rows and one more."""
    sums: dict[str, Any] = steps.order_by()[: COUNTED_AT_MOST + 1].aggregate(count=Count("*"), **COST)
    return sums


def times_of(steps: Any, *, sees_costs: bool) -> list[StepTimes]:
    """Returns the times of the COUNTED_AT_MOST newest steps, the newest first. Index: pgonly_step_once."""
    usd = F("usd") if sees_costs else Value(None, output_field=DecimalField())
    rows = steps.order_by("-finished_at").values_list("pk", "name", "started_at", "finished_at", usd)
    return [StepTimes(*row) for row in rows[:COUNTED_AT_MOST]]


def newest_steps(steps: Any) -> Any:
    """Sorts by a column without an index, so that PostgreSQL finds the job's own rows first, by pgonly_step_once."""
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


def _result(step: Any, mask: JobMask) -> str:
    if mask.hides(step.name):
        return MASK
    if step.size is None:
        return "null"
    if step.text is None:
        return _("It is too long to be shown: %s characters.") % f"{step.size:,}"
    if step.kind not in ("object", "array"):
        return str(step.text)
    value = read_json(step.text)
    masked = mask.value(value)
    return str(step.text)[:RESULT_SHOWN] if masked == value else shortened(pretty_json(masked), RESULT_SHOWN)
