"""The filters of the job list. The values that they offer come from queue/known_names.py."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import ChoicesFieldListFilter, ModelAdmin, SimpleListFilter
from django.db import router
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.formats import short_name
from pgonly_django.models import Job, State
from pgonly_django.models.job import SUSPECT_FROM
from pgonly_django.queue.known_names import KNOWN_ERRORS, KNOWN_QUEUES, KNOWN_TASKS, known_names

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
        values = set(known_names(router.db_for_read(Job), self.known))
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


class ErrorFilter(KnownValueFilter):
    """By the class of the last error, of failed jobs alone: their index is small."""

    title = _("failed with")
    parameter_name = "error"
    known = KNOWN_ERRORS
    label = staticmethod(short_name)

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        error = self.value()
        return queryset.failed_with(error) if error else queryset
