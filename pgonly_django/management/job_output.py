"""Jobs as lines and as JSON. The keys and their meaning stay the same from version to version."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Case, F, OuterRef, Q, Subquery, TextField, When
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import JSONObject, Left
from django.utils import timezone

from pgonly_django.masking import MASK
from pgonly_django.models import Checkpoint, State, Wait
from pgonly_django.models.job import JobQuerySet
from pgonly_django.models.job_rows import LARGE_COLUMNS
from pgonly_django.models.readable import OddValue
from pgonly_django.models.waits import KEY_OF_BATCH
from pgonly_django.monitoring.situations import RETRYING, SITUATION
from pgonly_django.tasks.masking import JobMask
from pgonly_django.wording import duration

# Columns that may be megabytes: only `show` reads them.
CUT = 500
LAST = {
    f"last_{key}": Left(KeyTextTransform(key, KeyTransform(-1, "errors")), CUT, output_field=TextField())
    for key in ("outcome", "exception", "message", "reason")
}
# What a job waits for, with the times as they stand in the row.
WAITS = ("key", "question", "choices", "began_at", "until")
WAIT = {
    "wait": Subquery(
        Wait.objects.current().filter(job=OuterRef("pk")).order_by("began_at").values(
            facts=JSONObject(**{name: name for name in WAITS})
        )[:1]
    )
}  # fmt: skip
COLUMNS = (
    "id", "state", "queue", "task", "priority", "attempt", "max_attempts", "interruptions", "crashes",
    "enqueued_at", "run_at", "started_at", "attempted_at", "finished_at", "delete_after", "cancel_requested_at",
    "worker_id", "enqueued_by", "held_by", "unique_key", "concurrency_key", "dead_letter_queue", "dead_lettered_at",
    "progress",
)  # fmt: skip
STEP = ("name", "started_at", "finished_at", "usd", "tokens_in", "tokens_out", "result")
DETAILS = ("backend", "args", "kwargs", "options", "then_job", "result", "errors", "log")
ENDED = ("outcome", "exception", "message", "reason", "step", "finished_at", "worker")
LINE = "{:36}  {:9}  {:12}  {:28}  {:>8}  {:>7}  {}"
HEADS = LINE.format("id", "state", "queue", "task", "attempts", "age", "waits for, or last error")


def with_last_error(jobs: JobQuerySet) -> JobQuerySet:
    """Adds what a line and its JSON need: no large columns, but the arguments that a key was made of."""
    has_key = Q(unique_key__isnull=False) | Q(concurrency_key__isnull=False)
    of_key = {f"key_{name}": Case(When(has_key, then=F(name))) for name in ("args", "kwargs")}
    rows: JobQuerySet = (
        jobs.defer(*LARGE_COLUMNS).annotate(**LAST, **WAIT, **of_key, situation=SITUATION).order_by("-pk")
    )
    return rows


def line(job: Any) -> str:
    name, attempts = job.task.rpartition(".")[2], f"{job.attempt}/{job.max_attempts}"
    exception = (job.last_exception or "").rpartition(".")[2]
    error = ": ".join(filter(None, (exception, job.last_message or job.last_reason)))
    if job.state == State.SCHEDULED:
        error = _waits(job.wait) if job.wait else _is_due(job, error)
    shown = " ".join(error.split())[:100] if job.state != State.SUCCEEDED else ""
    age = duration((timezone.now() - job.enqueued_at) // timedelta(seconds=1))
    largest = " ".join(age.split()[:2])  # unit, such as "3 h"
    cells = (str(job.pk), job.state, job.queue[:12], name[:28], attempts, largest, shown)
    return harmless(LINE.format(*cells).rstrip())


def _waits(wait: dict[str, Any]) -> str:
    """Returns what a job waits for, from WAIT."""
    if wait["key"] is None:
        return f"sleeps until {wait['until']:.19}"
    if re.match(KEY_OF_BATCH, wait["key"]):
        return "waits for the jobs that it gathers"
    asks = wait["question"] or wait["choices"]
    return f"asks a person: {wait['question'] or wait['key']}" if asks else f"waits for {wait['key']}"


def _is_due(job: Any, error: str) -> str:
    left = max(job.run_at - timezone.now(), timedelta(0)) // timedelta(seconds=1)
    if job.situation == RETRYING.name:
        return f"next attempt in {duration(left)}: {error}"
    return f"starts in {duration(left)}"


def harmless(text: str) -> str:
    """Returns the text without the characters by which a job could control the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def as_json(value: Any) -> str:
    """Returns JSON. Times are ISO 8601 with their zone; ids and what JSON cannot say are text."""
    return json.dumps(value, default=_plain, ensure_ascii=True)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def listed(jobs: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Returns the job for --json of `list`. Keys made of a masked argument are masked, as in the admin."""
    mask = JobMask()
    for job in jobs:
        if job.key_args is not None and mask.hides_of(job.task, job.key_args, job.key_kwargs):
            job.unique_key, job.concurrency_key = (
                key and MASK for key in (job.unique_key, job.concurrency_key)
            )
        yield facts(job)


def facts(job: Any) -> dict[str, Any]:
    last = {name.removeprefix("last_"): getattr(job, name) for name in LAST}
    columns = {name: getattr(job, name) for name in COLUMNS}
    if job.wait and job.wait["until"] is None:
        columns["run_at"] = None  # it is in a hundred years
    return {**columns, "last_error": last if any(last.values()) else None, "waits_for": job.wait}


def details(job: Any) -> dict[str, Any]:
    """Returns the facts for `show`, with and without --json."""
    saved = Checkpoint.objects.using(job._state.db).filter(pk=job.pk).first()  # noqa: SLF001 - Django's own name
    steps = job.steps.order_by("finished_at").values(*STEP)
    return {
        **facts(job),
        **{name: getattr(job, name) for name in DETAILS},
        "checkpoint": None if saved is None else {"value": saved.value, "saved_at": saved.saved_at},
        "steps": list(steps),
    }


def lines_of(job: dict[str, Any]) -> Iterator[str]:
    """Returns `details` for people: empty ones are left out, and the tracebacks stand at the end. So are `crashes` of
    0: progress resets them, and the errors may still name some."""
    left_out = {"errors", "log", "last_error", *(() if job["crashes"] else ("crashes",))}
    for name, value in job.items():
        if isinstance(value, OddValue) or (value not in (None, [], {}, "") and name not in left_out):
            is_json = isinstance(value, dict | list)
            yield harmless(f"{name:20} {as_json(value) if is_json else _plain(value)}")
    for entry in job["log"]:
        yield f"{'log':20} {as_json(entry)}"
    for entry in job["errors"]:
        yield harmless(f"\nattempt {entry.get('attempt', '?')}: {_ended(entry)}")
        if entry.get("traceback"):
            yield harmless(str(entry["traceback"]).rstrip())


def _ended(entry: dict[str, Any]) -> str:
    """Returns what an entry of a job's errors says of the end of a run, on one line."""
    outcome, exception, message, reason, step, *rest = map(entry.get, ENDED)
    reason = str(reason or "").removesuffix(".")  # a comma follows
    said = (outcome, exception, message, reason, step and f"in the step {step!r}", *rest)
    return ", ".join(str(each) for each in said if each)


def json_array(items: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Writes one document while it is read: a million jobs take no memory."""
    before = "["
    for item in items:
        yield before + as_json(item)
        before = ","
    yield "]" if before == "," else "[]"
