"""Batches in the admin: the list with how far each is, and the page of one with its members and callbacks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.db import router
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.base import Links, stylesheets
from pgonly_django.admin.jobs.data import may_see_data, progress_of_parts
from pgonly_django.admin.jobs.members import members_of
from pgonly_django.admin.verbs import Verb, VerbAdmin
from pgonly_django.models import Job, JobBatch
from pgonly_django.monitoring.progress import progress_for_page
from pgonly_django.queue import batches
from pgonly_django.queue.enqueue import OF_JOB

CALLBACKS = {
    "on_success": gettext_lazy("When all have succeeded"),
    "on_failure": gettext_lazy("When one has failed or was cancelled"),
    "on_finish": gettext_lazy("In both cases"),
}
IS_OPEN = Q(finished_at=None)


def _cancel(_request: HttpRequest, rows: QuerySet[JobBatch]) -> int:
    ids = list(rows.values_list("pk", flat=True))
    batches.cancel(rows.db, ids)
    return len(ids)


CANCEL = Verb(
    name="cancel",
    label=gettext_lazy("Cancel"),
    hint=gettext_lazy(
        "Its waiting jobs are cancelled at once, running ones are asked to stop, and it takes no more."
    ),
    logged=gettext_lazy("Cancelled."),
    otherwise=gettext_lazy("A batch that has ended cannot be cancelled."),
    method=_cancel,
    allowed=IS_OPEN & Q(cancelled_at=None),
    allows=lambda batch: batch.finished_at is None and batch.cancelled_at is None,
)


@admin.display(description=gettext_lazy("state"))
def state_badge(batch: Any) -> SafeString:
    if batch.finished_at is None and batch.cancelled_at is not None:
        return formats.badge("cancelling", _("Stopping"), formats.exact_time(batch.cancelled_at))
    if batch.cancelled_at is not None:
        return formats.badge("cancelled", _("Cancelled"), formats.exact_time(batch.cancelled_at))
    if batch.finished_at is None:
        return formats.badge("running", _("Open"), _("Some of its jobs have not ended, or more may come."))
    if batch.parts is None:  # it has no members any more, or to count them took too long
        return formats.badge("stopped", _("Ended"), formats.exact_time(batch.finished_at))
    if batch.parts.failed + batch.parts.cancelled:
        return formats.badge("failed", _("With failures"), formats.exact_time(batch.finished_at))
    return formats.badge("succeeded", _("Succeeded"), formats.exact_time(batch.finished_at))


@admin.display(description=gettext_lazy("name"))
def name(batch: Any) -> SafeString:
    """Shows the id of a batch without a name."""
    return formats.named(batch.name or str(batch.pk))


@admin.display(description=gettext_lazy("made by"))
def made_by(batch: Any) -> SafeString | str:
    label, url = batch.maker
    return format_html('<a href="{}">{}</a>', url, label) if url else label


@admin.display(description=gettext_lazy("progress"))
def progress(batch: Any) -> SafeString | str:
    if batch.parts is None:
        return "-"
    shown = progress_of_parts(batch.parts)
    link = '{} <a href="{}">{}</a>' if batch.jobs_url else "{}{} {}"
    return format_html(link, shown["bar"], batch.jobs_url, shown["figures"])


@admin.display(description=gettext_lazy("made"))
def made(batch: Any) -> SafeString:
    return formats.ago(batch.created_at)


class OpenFilter(admin.SimpleListFilter):
    title = gettext_lazy("state")
    parameter_name = "batches"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("open", _("Open")), ("ended", _("Ended"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        conditions = {"open": IS_OPEN, "ended": ~IS_OPEN}
        return queryset.filter(conditions.get(self.value() or "", Q()))


@admin.register(JobBatch)
class BatchAdmin(VerbAdmin):
    """Who may see jobs may see their batches without another permission, and who may operate jobs may cancel them."""

    list_display = (state_badge, name, progress, made_by, made)
    list_display_links = (state_badge, name)
    list_filter = (OpenFilter,)
    search_fields = ("name",)
    search_help_text = gettext_lazy("Search for a part of the name.")
    list_per_page = 50
    sortable_by = ()
    ordering = ("-pk",)
    verbs = (CANCEL,)
    actions = (CANCEL.as_action("batches"),)
    fields: ClassVar[Any] = ("id",)  # callbacks have arguments, which not everyone may see

    class Media:
        css = {"all": stylesheets("job")}

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        may: bool = request.user.has_perm("pgonly_django.view_job")
        return may or super().has_view_permission(request, obj)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pgonly_django.operate_job")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Refuses lookups in the arguments of callbacks: by trying values they would be read letter by letter."""
        return lookup.partition("__")[0] != "callbacks" and super().lookup_allowed(lookup, value, request)

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).select_related("parent").only(
            "name", "made_by", "created_at", "cancelled_at", "finished_at", "sent", "parent__task",
        )  # fmt: skip

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        prepare(rows, self.links(request))

    def page_of(self, request: HttpRequest, batch: Any) -> dict[str, Any]:
        links, sees_data = self.links(request), may_see_data(request)
        prepare([batch], links)
        return {
            "heading": batch.name or _("Batch"),
            "state_badge": state_badge(batch),
            "made_by": made_by(batch),
            "progress": progress(batch),
            "jobs_url": batch.jobs_url,
            "members": members_of([batch.pk], links, sees_data=sees_data) if links.may_view(Job) else None,
            "callbacks": callbacks_of(batch, links),
        }


def prepare(rows: list[Any], links: Links) -> None:
    """Adds to each its `parts`, which say how far it is, its `maker`, as text and address, and `jobs_url`."""
    parts = progress_for_page(router.db_for_read(Job), [str(batch.pk) for batch in rows])
    makers = _jobs_with(batch.made_by.removeprefix(OF_JOB) for batch in rows if not batch.parent)
    for batch in rows:
        batch.parts = parts.get(str(batch.pk))
        batch.jobs_url = links.to_list(Job, batch_id=str(batch.pk))
        job = batch.parent or makers.get(batch.made_by.removeprefix(OF_JOB))
        label = formats.short_name(job.task) if job else "-"
        batch.maker = (
            _("gathered by %s") % label if batch.parent else label,
            links.to_row(job) if job else "",
        )


def callbacks_of(batch: JobBatch, links: Links) -> list[dict[str, Any]]:
    """Returns each callback with its task, and the job that it has become."""
    jobs = _jobs_with(batch.sent.values())
    found = []
    for name, row in batch.callbacks.items():
        job = jobs.get(str(batch.sent.get(name)))
        task = formats.short_name(str(row.get("task"))) if isinstance(row, dict) else "-"
        url = links.to_row(job) if job else ""
        found.append({"label": CALLBACKS.get(name, name), "task": task, "job": job, "url": url})
    return found


def _jobs_with(ids: Iterable[Any]) -> dict[str, Job]:
    """Returns these jobs by their ids, with their tasks. What is no id is left out."""
    keys = set()
    for each in ids:
        with suppress(ValueError):
            keys.add(UUID(str(each)))
    return {str(job.pk): job for job in _jobs().filter(pk__in=keys).only("task")} if keys else {}


def _jobs() -> QuerySet[Job]:
    return Job.objects.using(router.db_for_read(Job))
