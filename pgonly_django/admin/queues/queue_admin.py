from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db import router
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.declared import RESET, DeclaredAdmin
from pgonly_django.admin.links import Links
from pgonly_django.admin.queues import cells
from pgonly_django.admin.queues.verbs import PAUSE, RESUME
from pgonly_django.conf import settings
from pgonly_django.models import Job, Limiter, Queue, QueueTokens
from pgonly_django.monitoring.queues import IN_USE
from pgonly_django.queue.declared_queues import what_is_wrong
from pgonly_django.queue.known_names import KNOWN_QUEUES, known_names

LIMITS = ("max_running", "rate_count", "rate_seconds", "limiter")


class QueueForm(forms.ModelForm):  # type: ignore[type-arg] # generic in the stubs only
    limiter = forms.ChoiceField(
        required=False, help_text=_("While it cools down, no job of the queue starts.")
    )

    class Meta:
        model = Queue
        fields = ("name", *LIMITS)
        labels = {
            "max_running": _("Running at most"),
            "rate_count": _("Starts"),
            "rate_seconds": _("In seconds"),
        }
        help_texts = {
            "max_running": _("Jobs at a time, over all workers. Empty: no limit."),
            "rate_count": _("So many jobs start in the period, over all workers. Empty: no limit."),
            "rate_seconds": _("The period of the rate."),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = set(Limiter.objects.values_list("name", flat=True)[:1000]) | set(settings().limiters)
        names |= {self.instance.limiter} if self.instance.limiter else set()
        self.fields["limiter"].choices = [("", _("none")), *((name, name) for name in sorted(names))]  # type: ignore[attr-defined]

    def clean_limiter(self) -> str | None:
        return self.cleaned_data["limiter"] or None

    def clean(self) -> dict[str, Any]:
        """The same rules as for PGONLY["QUEUES"]."""
        values: dict[str, Any] = super().clean() or self.cleaned_data
        count, seconds = values.get("rate_count"), values.get("rate_seconds")
        if (count is None) != (seconds is None):
            self.add_error("rate_seconds", _("A rate needs both: so many starts in so many seconds."))
        elif count is not None and (reason := what_is_wrong("rate", (count, seconds))):
            self.add_error("rate_count", _("It must be %s.") % reason)
        running = values.get("max_running")
        if running is not None and (reason := what_is_wrong("max_running", running)):
            self.add_error("max_running", _("It must be %s.") % reason)
        return values


@admin.register(Queue)
class QueueAdmin(DeclaredAdmin):
    form = QueueForm
    list_display = (
        cells.state_badge, cells.name, cells.waiting, cells.running, cells.rate, cells.limiter,
    )  # fmt: skip
    list_display_links = (cells.state_badge, cells.name)
    verbs = (PAUSE, RESUME, RESET)
    actions = tuple(verb.as_action(f"{verb.name}_queues") for verb in verbs)
    fields = ("name", *LIMITS)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Queue]:
        rows: QuerySet[Queue] = super().get_queryset(request)
        return rows.annotate(**IN_USE)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """One by one, and only what the settings do not declare: that would come back with the next worker."""
        may_go = obj is not None and obj.name not in settings().queues
        return may_go and super().has_delete_permission(request, obj)

    def delete_model(self, request: HttpRequest, obj: Queue) -> None:
        QueueTokens.objects.filter(queue=obj.name).delete()
        super().delete_model(request, obj)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """With the queues that have jobs and no row yet: a click makes one."""
        rows = set(Queue.objects.values_list("name", flat=True))
        others = sorted(set(known_names(router.db_for_read(Job), KNOWN_QUEUES)) - rows)
        return super().changelist_view(request, {"other_queues": others, **(extra_context or {})})

    def operate_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """A queue that has jobs and no row yet gets one when somebody pauses it."""
        queue = unquote(object_id)
        may = self.has_operate_permission(request) and self.has_view_permission(request)
        is_asked = request.method == "POST" and name == PAUSE.name and may
        if is_asked and queue in known_names(router.db_for_read(Job), KNOWN_QUEUES):
            Queue.objects.named(queue)
        return super().operate_view(request, object_id, name)

    def page_of(self, request: HttpRequest, queue: Any) -> dict[str, Any]:
        return {
            "state_badge": cells.state_badge(queue),
            "waiting": cells.waiting(queue),
            "running": cells.running(queue),
            "jobs_url": Links(request, self.admin_site).to_list(Job, queue=queue.name),
        }
