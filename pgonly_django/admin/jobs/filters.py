"""The filters of the job list. The values that they offer are found without reading ten million rows."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import ChoicesFieldListFilter, ModelAdmin, SimpleListFilter
from django.db import connections, router
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.formats import short_name
from pgonly_django.models import Job, State
from pgonly_django.models.job import READY_ROW, SUSPECT_FROM, SUSPECT_ROW
from pgonly_django.tables import qualified


def _queues_of(name: str, jobs: str) -> str:
    """A loose scan: one index descent per queue, along an index of these `jobs` that begins with queue."""
    return qualified(f"""{name}(queue) AS (
    (SELECT queue FROM pgonly_job WHERE {jobs} ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT job.queue FROM pgonly_job AS job
            WHERE {jobs} AND job.queue > {name}.queue ORDER BY job.queue LIMIT 1)
    FROM {name} WHERE {name}.queue IS NOT NULL
)""")


# Queues with ready or running jobs by pgonly_job_ready and pgonly_job_running, those of suspects by
# pgonly_job_suspect. Others if the newest rows name them (primary key).
KNOWN_QUEUES = qualified(f"""
WITH RECURSIVE {_queues_of("ready", READY_ROW)}, {_queues_of("running", "state = 'running'")},
suspect AS (SELECT queue FROM pgonly_job WHERE {SUSPECT_ROW} LIMIT 1000),
recent AS (SELECT queue FROM pgonly_job ORDER BY id DESC LIMIT 1000)
SELECT queue FROM ready UNION SELECT queue FROM running
UNION SELECT queue FROM suspect UNION SELECT queue FROM recent
ORDER BY queue LIMIT 101
""")

# The tasks of the newest rows (primary key) and of what runs now (pgonly_job_running), however old.
KNOWN_TASKS = qualified("""
WITH recent AS (SELECT task FROM pgonly_job ORDER BY id DESC LIMIT 1000),
running AS (SELECT task FROM pgonly_job WHERE state = 'running' LIMIT 1000)
SELECT task FROM recent UNION SELECT task FROM running
ORDER BY task LIMIT 101
""")


ANY_READY = Q(slots__isnull=True) & (Q(crashes__lt=SUSPECT_FROM) | Q(crashes__gte=SUSPECT_FROM)) | Q(
    slots__isnull=False
)


class StateFilter(ChoicesFieldListFilter):
    """Ready rows are in partial indexes, and so are held ones: PostgreSQL uses them when the query names their
    conditions."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job] | None:
        if request.GET.get("state__exact") == State.READY:
            queryset = queryset.filter(ANY_READY)
        if request.GET.get("state__exact") == State.HELD:
            queryset = queryset.filter(held_by__isnull=False)
        return super().queryset(request, queryset)


class KnownValueFilter(SimpleListFilter):
    """Offers the values of a column that the statement `known` finds, and the one that is chosen."""

    known: str
    label: staticmethod[[str], str] = staticmethod(str)

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        with connections[router.db_for_read(Job)].cursor() as cursor:
            cursor.execute(self.known)
            values = {value for (value,) in cursor.fetchall() if value is not None}
        chosen = self.value()
        return [(value, self.label(value)) for value in sorted(values | ({chosen} if chosen else set()))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(**{str(self.parameter_name): self.value()}) if self.value() else queryset

    def has_output(self) -> bool:
        return len(self.lookup_choices) > 1 or self.value() is not None


class QueueFilter(KnownValueFilter):
    title = _("queue")
    parameter_name = "queue"
    known = KNOWN_QUEUES


class TaskFilter(KnownValueFilter):
    title = _("task")
    parameter_name = "task"
    known = KNOWN_TASKS
    label = staticmethod(short_name)
