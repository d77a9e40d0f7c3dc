"""The form of a budget. It refuses what no budget can have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from pgonly_django.limits import budget_settings
from pgonly_django.models import Budget

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Budget]
else:
    ModelForm = forms.ModelForm


class BudgetForm(ModelForm):
    class Meta:
        model = Budget
        fields = ("name", "usd", "per", "timezone")
        labels = {"timezone": _("Time zone")}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "timezone" in self.fields:
            self.fields["timezone"].widget.attrs["list"] = "pgonly-timezones"
        if "timezone" in self.fields and not self.instance.pk:
            self.initial["timezone"] = timezone.get_default_timezone_name()

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        budget_settings.check_name(name, error=ValidationError)
        return name

    def clean_per(self) -> str | None:
        return self.cleaned_data["per"] or None

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors:
            given = {name: values.get(name) for name in budget_settings.KEYS}
            budget_settings.validated(given, "The budget", ValidationError)
        return values
