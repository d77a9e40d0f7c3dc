"""The form of a schedule. It refuses what a worker could not enqueue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from pgonly_django.models import Schedule
from pgonly_django.scheduling import calls
from pgonly_django.scheduling.declaration import Declaration
from pgonly_django.tasks.arguments import call_signature

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Schedule]
else:
    ModelForm = forms.ModelForm

# Where a problem is shown that has another name in code.
FIELDS = {"every": "every_seconds"}


class ScheduleForm(ModelForm):
    class Meta:
        model = Schedule
        fields = (
            "name", "task", "args", "kwargs", "cron", "timezone", "every_seconds", "catch_up", "overlap", "queue",
            "priority", "budget", "metadata",
        )  # fmt: skip
        labels = {
            "args": _("Positional arguments"),
            "kwargs": _("Keyword arguments"),
            "cron": _("Cron line"),
            "timezone": _("Time zone"),
            "every_seconds": _("Interval in seconds"),
            "catch_up": _("Missed ticks"),
            "overlap": _("Overlapping runs"),
        }
        help_texts = {"args": _("A JSON list."), "kwargs": _("A JSON object.")}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in {"args", "kwargs", "metadata"} & self.fields.keys():
            field = self.fields[name]
            field.widget.attrs["rows"] = 2
            field.show_hidden_initial = False  # on for callable defaults: the row says what has changed
        if "timezone" in self.fields:
            self.fields["timezone"].widget.attrs["list"] = "pgonly-timezones"
        if "timezone" in self.fields and not self.instance.pk:
            self.initial["timezone"] = timezone.get_default_timezone_name()

    def clean_args(self) -> Any:
        return [] if self.cleaned_data["args"] is None else self.cleaned_data["args"]

    def clean_kwargs(self) -> Any:
        return {} if self.cleaned_data["kwargs"] is None else self.cleaned_data["kwargs"]

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return values
        # Those that are stored, for a person who may not see them.
        call = {name: getattr(self.instance, name) for name in ("args", "kwargs", "metadata")} | values
        given = {"name": self.instance.name, **call}
        given["every"] = given.pop("every_seconds")
        for name, problem in Declaration(**given).problems().items():
            field = FIELDS.get(name, name)
            self.add_error(field if field in self.fields else None, problem)
        if not self.errors:
            self._check_call(Schedule(**call))
        return values

    def _check_call(self, schedule: Schedule) -> None:
        """Whether enqueue() would take it: the task exists, its queue is allowed, and it takes the arguments."""
        database = Schedule.objects.db
        try:
            task = calls.task_of(schedule, database)
        except Exception as error:  # noqa: BLE001 - the task's module and its backend may raise anything
            self.add_error("task", str(error))
            return
        try:
            call_signature(task.func, task.takes_context).check(schedule.args, schedule.kwargs)
        except TypeError as error:
            self.add_error("args" if "args" in self.fields else None, str(error))
