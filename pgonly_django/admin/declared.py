"""Rows that settings or code declare and people edit: an edit stays until it is reset, also across deploys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from zoneinfo import available_timezones

from django import forms
from django.contrib.admin.options import ModelAdmin
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin import formats
from pgonly_django.admin.verbs import Verb, VerbAdmin
from pgonly_django.models.job import ClockTimestamp

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Any]
else:
    ModelForm = forms.ModelForm

RESET = Verb(
    name="reset",
    label=_("Reset"),
    hint=_("Use the values of settings or code again; the edits are lost."),
    logged=_("Reset to the values of settings or code."),
    allowed=Q(edited_at__isnull=False, declared__isnull=False),
    allows=lambda row: row.edited_at is not None and row.declared is not None,
)


def pause_and_resume(pauses: Promise | str, resumes: Promise | str) -> tuple[Verb, Verb]:
    """Returns the verbs for rows with `paused_at`. The texts say what either does."""
    pause = Verb(
        name="pause",
        label=_("Pause"),
        hint=pauses,
        logged=_("Paused."),
        allowed=Q(paused_at=None),
        allows=lambda row: row.paused_at is None,
    )
    resume = Verb(
        name="resume",
        label=_("Resume"),
        hint=resumes,
        logged=_("Resumed."),
        allowed=Q(paused_at__isnull=False),
        allows=lambda row: row.paused_at is not None,
    )
    return pause, resume


def origin_badge(row: Any) -> SafeString:
    """Returns a badge with its origin, when that is not unchanged code."""
    if row.declared is None:
        return formats.badge("made", gettext("Not declared"), gettext("Neither settings nor code name it."))
    if row.edited_at is not None:
        return formats.badge("edited", gettext("Edited"), formats.exact_time(row.edited_at))
    return SafeString("")


class DeclaredAdmin(VerbAdmin):
    """Adds and edits rows by Django's own permissions. An edit writes the changed columns, and no others."""

    search_fields: ClassVar[tuple[str, ...]] = ("name",)
    sortable_by = ()
    ordering = ("name",)
    list_per_page = 100
    # What the pages show of a row beside its columns.
    annotations: ClassVar[dict[str, Any]] = {}

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).annotate(**self.annotations)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return ModelAdmin.has_add_permission(self, request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return ModelAdmin.has_change_permission(self, request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Makes the name read-only: it is the key."""
        return () if obj is None else ("name",)

    def save_model(self, request: HttpRequest, obj: Any, form: ModelForm, change: bool) -> None:
        if not change:
            # A declaration of this name does not overwrite what a person made.
            obj.edited_at = ClockTimestamp()
            obj.save()
        elif form.changed_data:
            changed = {name: form.cleaned_data[name] for name in form.changed_data}
            rows: Any = self.get_queryset(request)
            rows.filter(pk=obj.pk).edit(**changed)


class TimeZoneForm(ModelForm):
    """A form for rows with a time zone: it offers the names of all, and the site's own one for a new row."""

    @property
    def timezones(self) -> list[str]:
        return sorted(available_timezones())

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "timezone" in self.fields:  # also for persons who may only view the row
            self.fields["timezone"].widget.attrs["list"] = "pgonly-timezones"
            if not self.instance.pk:
                self.initial["timezone"] = timezone.get_default_timezone_name()
