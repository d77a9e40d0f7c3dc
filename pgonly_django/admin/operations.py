"""What a person may do to jobs, in the list and on a job's page. The verbs themselves are the QuerySet's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.contrib.admin.models import CHANGE, LogEntry
from django.db import router, transaction
from django.utils.translation import gettext_lazy as _

from pgonly_django.models import Job, State
from pgonly_django.models.job import CANCELLABLE, DISCARDABLE, RETRYABLE, JobQuerySet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from django.db.models import QuerySet
    from django.utils.functional import _StrPromise as Lazy

AT_ONCE = 10_000
BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Done:
    """How many jobs an operation moved to another state, and how many running ones it asked to stop."""

    moved: int
    asked: int
    more: bool = False  # whether there are more that allow it


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    states: Sequence[State]  # from which it is allowed
    verb: Callable[[JobQuerySet], int]
    label: Lazy
    hint: Lazy
    logged: Lazy

    def allows(self, job: Job) -> bool:
        """Whether it would change this job: a running one is asked only once to stop."""
        asked = job.state == State.RUNNING and job.cancel_requested_at is not None
        return job.state in self.states and not asked

    def perform(self, jobs: QuerySet[Job], user_id: int, limit: int = AT_ONCE) -> Done:
        """Do it to the newest `limit` of those `jobs` that allow it, and log each."""
        allowed = jobs.filter(state__in=self.states).order_by("-pk")
        ids = list(allowed.values_list("pk", flat=True)[: limit + 1])
        batches = [ids[start : min(start + BATCH, limit)] for start in range(0, min(len(ids), limit), BATCH)]
        done = [self._perform_batch(batch, user_id) for batch in batches]
        return Done(sum(d.moved for d in done), sum(d.asked for d in done), more=len(ids) > limit)

    def _perform_batch(self, ids: list[UUID], user_id: int) -> Done:
        """The rows are locked before, so that exactly those are logged that change."""
        database = router.db_for_write(Job)
        with transaction.atomic(using=database):
            allowed = Job.objects.using(database).filter(pk__in=ids, state__in=self.states)
            locked = list(allowed.order_by("pk").only("id", "task", "state").select_for_update(no_key=True))
            count = self.verb(Job.objects.using(database).filter(pk__in=[job.pk for job in locked]))
            if locked:
                LogEntry.objects.log_actions(user_id, locked, CHANGE, str(self.logged))
        asked = sum(job.state == State.RUNNING for job in locked)
        return Done(count - asked, asked)


RETRY = Operation(
    "retry",
    RETRYABLE,
    JobQuerySet.retry,
    _("Retry"),
    _("Ready now, with all its attempts, from its last checkpoint."),
    _("Retried."),
)
CANCEL = Operation(
    "cancel",
    CANCELLABLE,
    JobQuerySet.cancel,
    _("Cancel"),
    _("At once when it waits; a running job is asked to stop."),
    _("Cancelled."),
)
DISCARD = Operation(
    "discard",
    DISCARDABLE,
    JobQuerySet.discard,
    _("Discard"),
    _("Failed now, without another attempt."),
    _("Discarded."),
)
OPERATIONS = {operation.name: operation for operation in (RETRY, CANCEL, DISCARD)}
