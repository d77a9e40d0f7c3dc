"""Workers in the admin: who serves what, and who was last heard of when. Nothing to change here."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import DurationField, ExpressionWrapper, F
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.paging import CappedPaginator
from pgonly_django.conf import settings
from pgonly_django.models import Worker
from pgonly_django.models.job import ClockTimestamp

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.utils.safestring import SafeString

    class SeenWorker(Worker):
        silence: timedelta

    ModelAdmin = admin.ModelAdmin[Worker]
else:
    ModelAdmin = admin.ModelAdmin


@admin.register(Worker)
class WorkerAdmin(ModelAdmin):
    list_display = ("life", "worker_name", "served", "threads", "running", "heartbeat", "since")
    list_display_links = None
    list_per_page = 50
    sortable_by = ()
    ordering = ("-heartbeat_at",)
    show_full_result_count = False
    paginator = CappedPaginator
    actions = None

    class Media:
        css = {"all": ["pgonly_django/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Worker | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Worker | None = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With `silence`: how long ago the last heartbeat was, by the database's clock."""
        silence = ExpressionWrapper(ClockTimestamp() - F("heartbeat_at"), DurationField())
        return super().get_queryset(request).annotate(silence=silence)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().changelist_view(request, {"title": _("Workers"), **(extra_context or {})})

    @admin.display(description=gettext_lazy("state"))
    def life(self, worker: SeenWorker) -> SafeString:
        if worker.stopped_at is not None:
            return formats.badge("stopped", _("Stopped"), formats.exact_time(worker.stopped_at))
        if worker.silence < timedelta(seconds=settings().lease_seconds):
            return formats.badge("live", _("Live"))
        return formats.badge(
            "dead", _("Dead"), _("Not heard of for longer than a lease: its jobs are rescued.")
        )

    @admin.display(description=gettext_lazy("name"))
    def worker_name(self, worker: Worker) -> SafeString:
        place = f"{worker.hostname}, {_('process %d') % worker.pid}"
        return format_html('{} <span class="pgonly-quiet">{}</span>', worker.name, place)

    @admin.display(description=gettext_lazy("queues"))
    def served(self, worker: Worker) -> str:
        queues = worker.queues if isinstance(worker.queues, list) else [worker.queues]
        return ", ".join(map(formats.as_text, queues)) or _("all")

    @admin.display(description=gettext_lazy("heartbeat"))
    def heartbeat(self, worker: SeenWorker) -> SafeString:
        text = _("%s ago") % formats.short_duration(worker.silence)
        return formats.time_tag(worker.heartbeat_at, text)

    @admin.display(description=gettext_lazy("up"))
    def since(self, worker: Worker) -> SafeString:
        end = worker.stopped_at or worker.heartbeat_at
        return formats.time_tag(worker.started_at, formats.short_duration(end - worker.started_at))
