"""Waits in the admin: what people are asked, with the buttons of the answers; and all else that jobs wait for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.base import Links, ReadOnlyAdmin
from pgonly_django.admin.jobs.answers import answer_address, answer_buttons, for_reader
from pgonly_django.models import Wait

ALL_VAR, ALL = "waits", "all"


def prepare_waits(waits: list[Any], links: Links, back: str) -> list[Any]:
    """Adds to each the address of its job, and of its answer: from there the person comes `back`."""
    for wait in for_reader(waits, links):
        wait.job_url = links.to_row(wait.job)
        wait.answer_url = answer_address(wait, links, next=back)
    return waits


@admin.display(description=gettext_lazy("question"))
def question(wait: Any) -> SafeString:
    """Shows the question, or else what the job waits for, and leads to the job."""
    asked = wait.question or (_("the jobs that it gathers") if wait.batch_id else wait.key)
    text = formats.brief(asked or wait.name, formats.LINE_SHOWN)
    html = '<a href="{}"><span class="pgonly-name">{}</span></a>{}' if wait.job_url else "{}{}{}"
    below = formats.second(wait.key if wait.question else "")
    return format_html(html, wait.job_url, text, below)


@admin.display(description=gettext_lazy("waits for"))
def waits_for(wait: Any) -> SafeString:
    return question(wait)


@admin.display(description=gettext_lazy("job"))
def job(wait: Any) -> SafeString:
    name = formats.short_name(wait.job.task)
    html = '<a href="{}" title="{}">{}</a>{}' if wait.job_url else '{}<span title="{}">{}</span>{}'
    return format_html(html, wait.job_url, wait.job.task, name, formats.second(wait.job.queue))


@admin.display(description=gettext_lazy("since"))
def since(wait: Any) -> SafeString:
    return formats.ago(wait.began_at)


@admin.display(description=gettext_lazy("until"))
def until(wait: Any) -> SafeString | str:
    return _("no deadline") if wait.until is None else formats.until(wait.until, _("%s ago"))


@admin.display(description=gettext_lazy("choices"))
def choices(wait: Any) -> str:
    return ", ".join(map(str, wait.choices)) or "-"


@admin.display(description=gettext_lazy("answer"))
def answers(wait: Any) -> SafeString:
    return answer_buttons(wait, wait.answer_url)


class WaitsFilter(admin.SimpleListFilter):
    title = gettext_lazy("what is waited for")
    parameter_name = ALL_VAR

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(ALL, _("All waits"))]

    def choices(self, changelist: Any) -> Iterator[Any]:
        of_people, *others = super().choices(changelist)
        yield from ({**of_people, "display": _("Waiting for people")}, *others)

    def queryset(self, request: HttpRequest, queryset: Any) -> QuerySet[Wait]:
        rows: QuerySet[Wait] = queryset if self.value() == ALL else queryset.for_people()
        return rows


@admin.register(Wait)
class WaitAdmin(ReadOnlyAdmin):
    list_display = (question, job, since, until, answers)
    list_display_links = None
    list_filter = (WaitsFilter,)
    search_fields = ("key",)
    search_help_text = gettext_lazy("Search for the whole key of an event.")
    ordering = ("began_at",)
    sortable_by = ()
    list_per_page = 50
    actions = None
    fields: ClassVar[Any] = (job, "question", choices, answers, "key", since, until)
    readonly_fields = fields
    change_list_template = "admin/pgonly_django/wait/change_list.html"

    def get_queryset(self, request: HttpRequest) -> Any:
        rows: Any = super().get_queryset(request)
        return rows.open().with_jobs()

    def get_list_display(self, request: HttpRequest) -> Any:
        """Names the first column for what is in it: not all waits are questions."""
        first = waits_for if request.GET.get(ALL_VAR) == ALL else question
        return (first, *self.list_display[1:])

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Wait], search_term: str) -> Any:
        """Searches by the whole key. Index: pgonly_wait_key."""
        return (queryset.filter(key=search_term.strip()) if search_term.strip() else queryset), False

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        found = super().get_object(request, object_id, from_field)
        links = self.links(request)
        return (
            found and prepare_waits([found], links, links.to_list(Wait))[0]
        )  # once answered, it has no page

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        prepare_waits(rows, self.links(request), request.get_full_path())

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        title = _("All waits") if request.GET.get(ALL_VAR) == ALL else _("Waiting for people")
        return super().changelist_view(request, {"title": title, **(extra_context or {})})
