from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from pgonly_django.admin import formats
from pgonly_django.admin.doctor import doctor_view
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.jobs.page.progress import progress_of
from pgonly_django.admin.links import Links
from pgonly_django.admin.verbs import VerbAdmin
from pgonly_django.admin.workers import cells
from pgonly_django.admin.workers.verbs import DRAIN, STOP
from pgonly_django.models import Job, State, Worker
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.monitoring.workers import JOB_COLUMNS

JOBS_SHOWN = 100


@admin.register(Worker)
class WorkerAdmin(VerbAdmin):
    list_display = (
        cells.life, cells.worker_name, cells.served, "threads", cells.held, cells.heartbeat, cells.since,
    )  # fmt: skip
    list_display_links = (cells.life, cells.worker_name)
    list_per_page = 50
    sortable_by = ()
    ordering = ("-heartbeat_at",)
    verbs = (STOP, DRAIN)
    actions = tuple(verb.as_action(f"{verb.name}_workers") for verb in verbs)
    fields: ClassVar[Any] = (cells.version, cells.served, "threads", cells.heartbeat, cells.since)
    readonly_fields = fields

    def get_urls(self) -> list[URLPattern]:
        # Each look is a short transaction, which is read only; ATOMIC_REQUESTS would make one of all.
        view = transaction.non_atomic_requests(self.admin_site.admin_view(self.doctor_view))
        return [path("doctor/", view, name=self.url_name("doctor")), *super().get_urls()]

    def doctor_view(self, request: HttpRequest) -> HttpResponse:
        return doctor_view(request, self.admin_site)

    def has_delete_permission(self, request: HttpRequest, obj: Worker | None = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> Any:
        """With `now`, the database's clock. Before PostgreSQL 17 an infinite time cannot be subtracted in SQL."""
        rows: Any = super().get_queryset(request)
        return rows.with_jobs_held().annotate(now=ClockTimestamp())

    def page_of(self, request: HttpRequest, worker: Any) -> dict[str, Any]:
        return {
            "state_badge": cells.life(worker),
            "place": cells.place(worker),
            "jobs": self._jobs(request, worker),
        }

    def _jobs(self, request: HttpRequest, worker: Worker) -> list[dict[str, Any]]:
        """Those that it holds, the oldest first, JOBS_SHOWN. Index: pgonly_job_running."""
        held = Job.objects.using(router.db_for_read(Job)).filter(state=State.RUNNING, worker_id=worker.pk)
        jobs = held.order_by("queue", "attempted_at").only(*JOB_COLUMNS)[:JOBS_SHOWN]
        links, sees_data = Links(request, self.admin_site), may_see_data(request)
        return [
            {
                "job": job,
                "task": formats.short_name(job.task),
                "url": links.to_page(Job, job.pk),
                "progress": progress_of(job),
                "sees_message": sees_data,
                "time": formats.age(job.attempted_at) if job.attempted_at else "",
            }
            for job in jobs
        ]
