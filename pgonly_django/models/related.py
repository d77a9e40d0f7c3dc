"""What the verbs on a job do to other rows: the jobs that it has gathered, and its steps and waits."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from django.apps import apps
from django.db import models, transaction
from django.db.models import Func, Q
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Cast

from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.models.batch import JobBatch, lock

# A batch whose parent has ended without it, or was asked to.
ORPHANED = Q(parent__state__in=("cancelled", "failed")) | Q(
    parent__state="running", parent__cancel_requested_at__isnull=False
)


def gathered_by(jobs: models.QuerySet[Any]) -> models.QuerySet[JobBatch]:
    """Returns the batches that these jobs have gathered."""
    parents = jobs.order_by().values("pk")
    parents.query.select_for_update = False
    return JobBatch.objects.using(jobs.db).filter(parent__in=parents)


def gathered_below(alias: str, ids: Collection[Any]) -> list[Any]:
    """Returns the ids of the open batches that jobs of these batches have gathered, at all levels."""
    is_open = JobBatch.objects.using(alias).filter(finished_at=None)
    found: list[Any] = []
    while ids:  # one query for each level
        ids = list(is_open.filter(parent__batch_id__in=ids).values_list("pk", flat=True))
        found += ids
    return found


def cancel_orphaned(alias: str, ids: Collection[Any], end: Callable[[], int] = int) -> int:
    """Calls `end()`, which may end the parents of these batches, and returns what it returns. Then cancels the jobs of
    the batches whose parent has ended or is being cancelled, at all levels. All of it is one transaction."""
    batches = JobBatch.objects.using(alias)
    with transaction.atomic(using=alias):
        lock(alias, [*ids, *gathered_below(alias, ids)])
        count = end()
        orphaned = batches.filter(ORPHANED, pk__in=ids, finished_at=None).values_list("pk", flat=True)
        cancel_members(alias, list(orphaned))
    return count


def cancel_members(alias: str, ids: Collection[Any]) -> int:
    """Cancels the jobs of these batches, which are locked, and those that they have gathered, at all levels. Returns
    how many of the batches themselves."""
    below, jobs = gathered_below(alias, ids), _model("Job").using(alias)
    open_ones = JobBatch.objects.using(alias).filter(pk__in=[*ids, *below], finished_at=None)
    open_ones.update(cancelled_at=Func(function="clock_timestamp"))
    if below:
        jobs.filter(batch_id__in=below)._cancel()  # noqa: SLF001 - without a look for what each has gathered
    count: int = jobs.filter(batch_id__in=ids)._cancel()  # noqa: SLF001 - likewise
    return count


def needed_by(jobs: models.QuerySet[Any]) -> Any:
    """Returns those jobs that these need to be retried: they have failed or were cancelled, and one that has gathered
    them was cancelled or discarded, or did not get their results. Locks their batches."""
    last = KeyTransform(-1, "errors")
    alike = jobs.alias(last=Cast(last, models.TextField()), outcome=KeyTextTransform("outcome", last))
    without = Q(state="cancelled") | Q(outcome="discarded") | Q(last__contains="exceptions.GatherError")
    ids = list(gathered_by(alike.filter(without)).values_list("pk", flat=True))
    lock(jobs.db, ids)
    return _model("Job").using(jobs.db).filter(batch_id__in=ids, state__in=("failed", "cancelled"))


def forget_steps(jobs: models.QuerySet[Any], names: Collection[str]) -> list[Any]:
    """Deletes the steps and waits of these names. Returns the ids of the jobs, which are locked until the transaction
    ends. Raises WrongArgumentsError for a name that none of them has."""
    if isinstance(names, str):
        raise WrongArgumentsError("retry()", f"forget must be a list of names, got {names!r}")
    alias, found = jobs.db, set()
    rows = _model("Job").using(alias).filter(pk__in=jobs.order_by().values("pk"))
    ids = list(rows.order_by("pk").select_for_update(no_key=True).values_list("pk", flat=True))
    for each in ("Step", "Wait"):
        kept = _model(each).using(alias).filter(job__in=ids, name__in=names)
        found |= {*kept.values_list("name", flat=True)}
        kept.delete()
    _model("JobOutput").using(alias).filter(job__in=ids, part__in=[f"step {name}" for name in names]).delete()
    if ids and (unknown := sorted({*names} - found)):
        raise WrongArgumentsError(
            "retry()", f"none of the jobs has a step or a wait {unknown[0]!r} to forget"
        )
    return ids


def _model(name: str) -> Any:
    return apps.get_model("pgonly_django", name).objects
