"""Workers in the admin: what each serves, and when its last heartbeat was. Nothing can be changed."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.base import ReadOnlyAdmin
from pgonly_django.models import Worker
from pgonly_django.models.job import ClockTimestamp


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    list_display = ("life", "worker_name", "served", "threads", "held", "heartbeat", "since")
    list_display_links = None
    list_per_page = 50
    sortable_by = ()
    ordering = ("-heartbeat_at",)
    actions = None

    def has_delete_permission(self, request: HttpRequest, obj: Worker | None = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> Any:
        """With `now`, the database's clock. Before PostgreSQL 17 an infinite time cannot be subtracted in SQL."""
        rows: Any = super().get_queryset(request)
        return rows.with_jobs_held().annotate(now=ClockTimestamp())

    @admin.display(description=gettext_lazy("state"))
    def life(self, worker: Any) -> SafeString:
        if worker.stopped_at is not None:
            return formats.badge("stopped", _("Stopped"), formats.exact_time(worker.stopped_at))
        if worker.sleeping_since is not None:
            return formats.badge("asleep", _("Asleep"), formats.exact_time(worker.sleeping_since))
        if worker.is_live(worker.now):
            return formats.badge("live", _("Live"))
        title = _("Silent for too long: its jobs, if it had any, are rescued.")
        return formats.badge("dead", _("Dead"), title)

    @admin.display(description=gettext_lazy("name"))
    def worker_name(self, worker: Worker) -> SafeString:
        place = f"{worker.hostname}, {_('process %d') % worker.pid}"
        return format_html('{} <span class="pgonly-quiet">{}</span>', worker.name, place)

    @admin.display(description=gettext_lazy("queues"))
    def served(self, worker: Worker) -> str:
        queues = worker.queues if isinstance(worker.queues, list) else [worker.queues]
        return ", ".join(map(formats.as_text, queues)) or _("all")

    @admin.display(description=gettext_lazy("running"))
    def held(self, worker: Any) -> int:
        """By the rows of the jobs: a dead worker's own number stays when they are rescued."""
        return int(worker.jobs_held)

    @admin.display(description=gettext_lazy("heartbeat"))
    def heartbeat(self, worker: Any) -> SafeString:
        text = _("%s ago") % formats.short_duration(worker.now - worker.heartbeat_at)
        return formats.time_tag(worker.heartbeat_at, text)

    @admin.display(description=gettext_lazy("uptime"))
    def since(self, worker: Worker) -> SafeString:
        end = worker.stopped_at or worker.heartbeat_at
        return formats.time_tag(worker.started_at, formats.short_duration(end - worker.started_at))
