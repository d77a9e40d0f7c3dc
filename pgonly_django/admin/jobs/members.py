"""The jobs of batches with their arguments and reasons, for the page of a batch and that of the job that gathers it."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from django.db import router
from django.db.models import Case, Value, When
from django.utils.translation import ngettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.base import Links
from pgonly_django.admin.jobs import cells
from pgonly_django.database.on_django import in_time
from pgonly_django.models import Job, State
from pgonly_django.models.job import FINISHED
from pgonly_django.models.job_rows import LARGE_COLUMNS
from pgonly_django.monitoring.situations import (
    ASKS_A_PERSON,
    RETRYING,
    SITUATION,
    WAITS_FOR_AN_EVENT,
    WAITS_FOR_JOBS,
)

MEMBERS_SHOWN = 25
NEWEST_READ = 1_000
COUNT_LIMIT = timedelta(milliseconds=100)
# Of members that have not ended; what needs a person comes first.
WORDS = {
    ASKS_A_PERSON.name: ngettext_lazy("%d waits for a person", "%d wait for a person"),
    State.HELD.value: ngettext_lazy("%d is held", "%d are held"),
    RETRYING.name: ngettext_lazy("%d waits for another attempt", "%d wait for another attempt"),
    WAITS_FOR_AN_EVENT.name: ngettext_lazy("%d waits for an event", "%d wait for an event"),
    WAITS_FOR_JOBS.name: ngettext_lazy("%d waits for jobs", "%d wait for jobs"),
    State.SCHEDULED.value: ngettext_lazy("%d is scheduled", "%d are scheduled"),
    State.READY.value: ngettext_lazy("%d is ready", "%d are ready"),
    State.RUNNING.value: ngettext_lazy("%d runs", "%d run"),
}


def open_members(alias: str, batch_id: Any) -> str:
    """Returns what the unfinished jobs of the batch wait for, in words: "12 wait for a person, 3 run". Counts the first
    NEWEST_READ; "" where that takes too long. Index: pgonly_job_batch_unfinished."""
    jobs = Job.objects.using(alias).filter(batch_id=batch_id).exclude(state__in=FINISHED)
    rows = jobs.annotate(situation=SITUATION).values_list("situation", "state")[:NEWEST_READ]
    found: Any = in_time(alias, COUNT_LIMIT, lambda: Counter(part or state for part, state in rows)) or {}
    return ", ".join(str(words % found[name]) for name, words in WORDS.items() if found.get(name))


def members_of(ids: list[Any], links: Links, *, sees_data: bool) -> list[Any]:
    """Returns MEMBERS_SHOWN jobs of these batches as the cells of the list of jobs need them: those that failed first,
    then of the NEWEST_READ newest the unfinished ones; without those that take too long to find. Index:
    pgonly_job_batch."""
    jobs = Job.objects.using(router.db_for_read(Job))
    members = jobs.filter(batch_id__in=ids).order_by("-pk")
    failed = members.filter(state=State.FAILED).values_list("pk", flat=True)[:MEMBERS_SHOWN]
    first = in_time(jobs.db, COUNT_LIMIT, lambda: list(failed)) or []
    newest = jobs.filter(pk__in=members.values("pk")[:NEWEST_READ]).exclude(pk__in=first)
    has_ended = Case(When(state__in=FINISHED, then=Value(1)), default=Value(0))
    others = newest.order_by(has_ended, "-pk").values_list("pk", flat=True)[: MEMBERS_SHOWN - len(first)]
    first += in_time(jobs.db, COUNT_LIMIT, lambda: list(others)) or []
    rows: Any = jobs.filter(pk__in=first).defer(*LARGE_COLUMNS).annotate(**cells.LISTED)
    found = {row.pk: row for row in rows}
    shown = [found[key] for key in first if key in found]
    for job in shown:
        job.address = links.to_row(job)
    cells.prepare(shown, links, sees_data=sees_data)
    return [
        {
            "badge": cells.state_badge(job),
            "task": formats.short_name(job.task),
            "url": job.address,
            "arguments": job.call,
            "cause": job.cause,
            "time": cells.time_cell(job),
        }
        for job in shown
    ]
