"""The form of a job's queue, priority, time and arguments. What is masked may stay as it is shown."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.exceptions import NotStorableError
from pgonly_django.masking import unmasked
from pgonly_django.models import Job
from pgonly_django.queue.enqueue import aware
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.masking import JobMask
from pgonly_django.tasks.options import NAME_LENGTH, YEARS
from pgonly_django.tasks.registry import UnknownTaskError, import_task

CHARACTERS_AT_MOST = 100_000
TOO_DEEP = gettext_lazy("It is nested too deeply to be edited here.")
KINDS: dict[str, tuple[type[Any], Any]] = {
    "args": (list, gettext_lazy("a list")),
    "kwargs": (dict, gettext_lazy("an object")),
}


class LocalDateTime(forms.DateTimeInput):
    """The browser's own calendar and clock, to the second."""

    input_type = "datetime-local"

    def __init__(self) -> None:
        super().__init__(attrs={"step": "1"}, format="%Y-%m-%dT%H:%M:%S")


class JsonText(forms.CharField):
    """JSON as a person edits it: indented, and read back."""

    widget = forms.Textarea(attrs={"rows": 6, "cols": 80, "spellcheck": "false", "class": "pgonly-json"})

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(required=False, **kwargs)
        self.kind, self.kind_name = KINDS[name]

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text.strip():
            return self.kind()
        try:
            read = json.loads(text)
            to_json(read, str(self.label))
        except NotStorableError as error:
            raise ValidationError(str(error)) from error
        except RecursionError as error:
            raise ValidationError(TOO_DEEP) from error
        except ValueError as error:
            raise ValidationError(_("It is not JSON: %s") % error) from error
        if not isinstance(read, self.kind):
            raise ValidationError(_("It must be %s in JSON.") % self.kind_name)
        return read


class CallForm(forms.Form):
    """`sees_data`: the arguments may be seen, and so may be changed."""

    queue = forms.CharField(label=gettext_lazy("Queue"), max_length=NAME_LENGTH)
    priority = forms.IntegerField(
        label=gettext_lazy("Priority"),
        min_value=-100,
        max_value=100,
        help_text=gettext_lazy("-100 to 100; larger ones start first."),
    )
    run_at = forms.DateTimeField(
        label=gettext_lazy("Not before"),
        required=False,
        widget=LocalDateTime,
    )
    version = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, data: Any, job: Job, *, sees_data: bool, initial: dict[str, Any]) -> None:
        super().__init__(data, initial=initial)
        self.job = job
        text = _("In the time zone %s. Empty: as soon as a worker is free.")
        self.fields["run_at"].help_text = text % timezone.get_current_timezone_name()
        self.unseen = "" if sees_data else _("You may not see the arguments of jobs: they stay as they are.")
        if sees_data:
            self._add_arguments()

    def _add_arguments(self) -> None:
        mask = JobMask()
        self.masked = {"args": mask.args(self.job.task, self.job.args), "kwargs": mask.value(self.job.kwargs)}
        texts = {name: json.dumps(value, indent=2, ensure_ascii=False) for name, value in self.masked.items()}
        if max(map(len, texts.values())) > CHARACTERS_AT_MOST:
            self.unseen = _("The arguments are too long to be edited here: they stay as they are.")
            return
        names = _names(self.job.task)
        labels = {"args": _("Positional arguments"), "kwargs": _("Keyword arguments")}
        for name, text in texts.items():
            self.fields[name] = JsonText(name, label=labels[name], help_text=names if name == "args" else "")
            self.initial[name] = text

    def clean_run_at(self) -> Any:
        moment = self.cleaned_data["run_at"]
        if moment is not None and moment.year not in YEARS:
            raise ValidationError(_("It must lie in the years %d to %d.") % (YEARS[0], YEARS[-1]))
        return moment

    def clean_args(self) -> Any:
        return self._unmasked("args")

    def clean_kwargs(self) -> Any:
        return self._unmasked("kwargs")

    def _unmasked(self, name: str) -> Any:
        try:
            return unmasked(self.cleaned_data[name], self.masked[name], getattr(self.job, name))
        except ValueError as error:
            raise ValidationError(str(error)) from error
        except RecursionError as error:
            raise ValidationError(TOO_DEEP) from error

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from the job, by the names of its columns."""
        values = {name: value for name, value in self.cleaned_data.items() if name != "version"}
        return {name: value for name, value in values.items() if not self._is_as_before(name, value)}

    def _is_as_before(self, name: str, value: Any) -> bool:
        """True and 1 are two values. A time is compared as the form shows it."""
        before = getattr(self.job, name)
        if name == "run_at":
            return bool(_seconds(value) == _seconds(self.initial.get("run_at")))
        if name in KINDS:
            return json.dumps(value, sort_keys=True) == json.dumps(before, sort_keys=True)
        return bool(value == before)


def _seconds(moment: Any) -> Any:
    return None if moment is None else aware(moment).replace(microsecond=0)


def _names(path: str) -> str:
    """The parameters of the task, without their defaults: one of those may be a secret."""
    try:
        task = import_task(path)
    except UnknownTaskError as error:
        return str(error)
    signature = call_signature(task.func, task.takes_context).signature
    bare = [each.replace(default=each.empty, annotation=each.empty) for each in signature.parameters.values()]
    return _("The task takes: %s") % (", ".join(map(str, bare)) or _("nothing"))
