"""Queues in the admin: the list with what waits and runs, and the page of one with its limits."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import router
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats, workers
from pgonly_django.admin.base import Links, stylesheets
from pgonly_django.admin.charts import Charts
from pgonly_django.admin.declared import RESET, DeclaredAdmin, ModelForm, origin_badge, pause_and_resume
from pgonly_django.admin.paging import TimedChangeList, label_of
from pgonly_django.conf import settings
from pgonly_django.database.on_django import in_time
from pgonly_django.models import Job, Limiter, Queue, QueueTokens, State, Worker
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.monitoring.clicks import people_at
from pgonly_django.monitoring.queues import (
    COUNTED_AT_MOST,
    QUEUE_USE,
    known_queues,
    unsaved_row,
    unsaved_rows,
)
from pgonly_django.monitoring.workers import Served, served_queues
from pgonly_django.queue.declared_queues import what_is_wrong
from pgonly_django.queue.health import oldest_per_queue, oldest_waiting

WORKERS_SHOWN = 25
HISTORY_LIMIT = timedelta(milliseconds=250)
LIMITS = ("max_running", "rate_count", "rate_seconds", "limiter")
PAUSE, RESUME = pause_and_resume(
    gettext_lazy("No further job of it starts; running jobs continue."),
    gettext_lazy("Its jobs start again, as far as its limits allow."),
)


@admin.display(description=gettext_lazy("state"))
def state_badge(queue: Any) -> SafeString:
    """`queue` has `is_served` beside its columns and IN_USE."""
    if queue.paused_at is not None:
        return formats.badge("paused", _("Paused"), formats.exact_time(queue.paused_at))
    if not queue.is_served:
        kind, title = "failed" if queue.waiting else "stopped", _("No live worker takes its jobs.")
        return formats.badge(kind, _("No worker"), title)
    if queue.blocked_until is not None:
        return formats.badge("paused", _("Cools down"), formats.exact_time(queue.blocked_until))
    if queue.waiting and queue.max_running is not None and queue.running >= queue.max_running:
        return formats.badge("running", _("Full"), _("The next job starts when another has ended."))
    if queue.waiting and queue.tokens is not None and queue.tokens < 1:
        return formats.badge("running", _("Waits for its rate"))
    return formats.badge("live", _("Open"))


@admin.display(description=gettext_lazy("name"))
def name(queue: Any) -> SafeString:
    """Nearly every queue has a row without being declared or edited. Below the name: who has paused it."""
    is_limited = any((queue.max_running, queue.rate_count, queue.limiter))
    badge = origin_badge(queue) if is_limited or queue.edited_at else ""
    return formats.named(queue.name, badge, paused(queue))


def paused(queue: Any) -> str:
    """Returns since when it has been paused, and by whom, where the admin's log says so."""
    if queue.paused_at is None:
        return ""
    text = _("paused since %s") % formats.exact_time(queue.paused_at)
    person = queue.paused_by
    return _("%(text)s, by %(person)s") % {"text": text, "person": person} if person else text


@admin.display(description=gettext_lazy("waiting"))
def waiting(queue: Any) -> SafeString | str:
    return _counted(queue.waiting, queue.waiting_url)


@admin.display(description=gettext_lazy("oldest"))
def oldest(queue: Any) -> str:
    seconds = queue.oldest_seconds
    return "-" if seconds is None else formats.whole(timedelta(seconds=seconds))


@admin.display(description=gettext_lazy("running"))
def running(queue: Any) -> SafeString | str:
    count = _counted(queue.running, queue.running_url)
    if not queue.max_running:
        return count
    return formats.used(queue.running, queue.max_running, _of(count, queue.max_running))


def _counted(number: int, url: str) -> SafeString | str:
    """Returns a link to jobs, whose text is their number."""
    count = label_of(number, COUNTED_AT_MOST)
    return format_html('<a href="{}">{}</a>', url, count) if url and number else count


def _of(running: SafeString | str, limit: int) -> SafeString:
    return format_html(_("{} of {}"), running, f"{limit:,}")


@admin.display(description=gettext_lazy("rate"))
def rate(queue: Any) -> str:
    if queue.rate_count is None:
        return "-"
    period = formats.duration(queue.rate_seconds)
    time = period if " " in period else period.removeprefix(f"1{formats.NO_BREAK}")
    return _("At most %(count)s starts per %(time)s") % {"count": f"{queue.rate_count:,}", "time": time}


class QueueForm(ModelForm):
    limiter = forms.ChoiceField(
        required=False, help_text=gettext_lazy("While it cools down, no job of the queue starts.")
    )

    class Meta:
        model = Queue
        fields = ("name", *LIMITS)
        labels = {
            "max_running": gettext_lazy("Running at most"),
            "rate_count": gettext_lazy("Starts at most"),
            "rate_seconds": gettext_lazy("Per (seconds)"),
        }
        help_texts = {
            "max_running": gettext_lazy("Jobs at a time, across all workers. Empty: no limit."),
            "rate_count": gettext_lazy("Starts in each period, across all workers. Empty: no limit."),
            "rate_seconds": gettext_lazy("The length of the period."),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = set(Limiter.objects.values_list("name", flat=True)[:1000]) | set(settings().limiters)
        names |= {self.instance.limiter} if self.instance.limiter else set()
        choices = [("", _("none")), *((name, name) for name in sorted(names))]
        self.fields["limiter"].choices = choices  # type: ignore[attr-defined] # it is the ChoiceField above

    def clean_limiter(self) -> str | None:
        return self.cleaned_data["limiter"] or None

    def clean(self) -> dict[str, Any]:
        """Applies the same rules as PGONLY["QUEUES"]."""
        values: dict[str, Any] = super().clean() or self.cleaned_data
        count, seconds = values.get("rate_count"), values.get("rate_seconds")
        if (count is None) != (seconds is None):
            self.add_error(
                "rate_seconds", _("A rate needs both: a number of starts and a number of seconds.")
            )
        elif count is not None and (reason := what_is_wrong("rate", (count, seconds))):
            self.add_error("rate_count", _("It must be %s.") % reason)
        most = values.get("max_running")
        if most is not None and (reason := what_is_wrong("max_running", most)):
            self.add_error("max_running", _("It must be %s.") % reason)
        return values


def prepare(queue: Any, links: Links, served: Served, oldest_seconds: float | None) -> None:
    """Gives it what its cells show beside its columns and QUEUE_USE."""
    queue.is_served = served.has(queue.name)
    queue.oldest_seconds = oldest_seconds
    queue.waiting_url, queue.running_url = (
        links.to_list(Job, queue=queue.name, state__exact=state) for state in (State.READY, State.RUNNING)
    )


class QueueChangeList(TimedChangeList):
    """Has the queues that have a worker or jobs and no row among the others of its last page."""

    def read_in_time(self, request: HttpRequest) -> None:
        super().read_in_time(request)
        if self.scope is not None or self.page_num != self.paginator.num_pages or self.get_filters_params():
            return
        alias = router.db_for_read(Job)
        names = {name for name in known_queues(alias) if self.query.lower() in name.lower()}
        names -= set(Queue.objects.filter(name__in=names).values_list("name", flat=True))
        rows = unsaved_rows(alias, names)
        self.result_list = sorted([*self.result_list, *rows], key=lambda row: row.name)
        self.result_count = self.paginator.counted = self.paginator.counted + len(rows)


@admin.register(Queue)
class QueueAdmin(DeclaredAdmin):
    form = QueueForm
    annotations = QUEUE_USE
    list_display = (state_badge, name, waiting, oldest, running, rate, "limiter")
    list_display_links = (state_badge, name)
    verbs = (PAUSE, RESUME, RESET)
    actions = tuple(verb.as_action("queues") for verb in verbs)
    fields = ("name", *LIMITS)

    class Media:
        css = {"all": stylesheets("chart")}

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Allows it one by one, and only for queues that the settings do not declare: those would come back."""
        may_go = obj is not None and obj.name not in settings().queues
        return may_go and super().has_delete_permission(request, obj)

    def delete_model(self, request: HttpRequest, obj: Queue) -> None:
        QueueTokens.objects.filter(queue=obj.name).delete()
        super().delete_model(request, obj)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[QueueChangeList]:
        return QueueChangeList

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Creates the rows of the selected queues that have none."""
        self._create_rows(request, request.POST.getlist(ACTION_CHECKBOX_NAME))
        return super().changelist_view(request, extra_context)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Returns a stand-in for a queue that has a worker or jobs and no row. What a person sends creates the row."""
        self._create_rows(request, [object_id])
        row = super().get_object(request, object_id, from_field)
        return row or unsaved_row(router.db_for_read(Job), object_id)

    def _create_rows(self, request: HttpRequest, names: Iterable[str]) -> None:
        may = self.has_view_permission(request) and (
            self.has_operate_permission(request) or self.has_change_permission(request)
        )
        if request.method == "POST" and may:
            alias = router.db_for_read(Job)
            Queue.objects.named(*(name for name in names if unsaved_row(alias, name)))

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        paused_at = {queue.name: queue.paused_at for queue in rows if queue.paused_at is not None}
        people = people_at(Queue, paused_at)
        served, links = served_queues(router.db_for_read(Worker)), self.links(request)
        ages = oldest_per_queue(router.db_for_read(Job))
        for queue in rows:
            prepare(queue, links, served, ages.get(queue.name))
            queue.paused_by = people.get(queue.name)

    def page_of(self, request: HttpRequest, queue: Any) -> dict[str, Any]:
        self.prepare_rows(request, [queue])
        links = self.links(request)
        return {
            "state_badge": state_badge(queue),
            "waiting": waiting(queue),
            "running": running(queue),
            "paused": paused(queue),
            "rate": rate(queue) if queue.rate_count else "",
            "jobs_url": links.to_list(Job, queue=queue.name),
            **_oldest(queue, links),
            **_workers(queue, links),
            **_history(queue, links),
        }


def _oldest(queue: Any, links: Links) -> dict[str, Any]:
    """Returns the job that has waited longest."""
    found = oldest_waiting(router.db_for_read(Job), [queue.name], with_paused=True)
    if found is None:
        return {}
    url = links.to_page(Job, found.job_id) if found.job_id else ""
    return {"oldest": formats.whole(timedelta(seconds=found.seconds)), "oldest_url": url}


def _workers(queue: Any, links: Links) -> dict[str, Any]:
    """Returns the live workers that serve the queue, those with the most threads first, WORKERS_SHOWN."""
    if not links.may_view(Worker):
        return {}
    serving = Worker.objects.using(router.db_for_read(Worker)).live().serving(queue.name)
    rows: Any = serving.with_jobs_held().annotate(now=ClockTimestamp()).order_by("-threads", "name")
    return {
        "workers": [
            {
                "row": row,
                "url": links.to_row(row),
                "badge": workers.life(row),
                "place": workers.place(row),
                "busy": formats.used(row.jobs_held, row.threads, _of(f"{row.jobs_held:,}", row.threads)),
            }
            for row in rows[:WORKERS_SHOWN]
        ],
        "workers_url": links.to_list(Worker),
    }


def _history(queue: Any, links: Links) -> dict[str, Any]:
    """Returns runs, waiting and run times, for a person who may see jobs; None for what takes longer than a panel
    may."""
    alias, charts = router.db_for_read(Job), Charts(links, queue.name)
    if not links.may_view(Job):
        return {}
    read = {"runs": charts.runs, "waits": charts.waits, "times": charts.times}
    found = {name: in_time(alias, HISTORY_LIMIT, figures) for name, figures in read.items()}
    return {**found, "is_incomplete": None in found.values()}
