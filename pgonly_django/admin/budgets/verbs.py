"""What a person may do to budgets."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from pgonly_django.admin.verbs import Verb


def _raise_and_resume(request: HttpRequest, budgets: Any) -> int:
    """Raises AmountError and BudgetError."""
    count = budgets.count()
    _tell_jobs(request, budgets.raise_cap(request.POST.get("usd", "")))
    return int(count)


def _resume(request: HttpRequest, budgets: Any) -> int:
    count = budgets.count()
    _tell_jobs(request, budgets.resume())
    return int(count)


def _tell_jobs(request: HttpRequest, count: int) -> None:
    text = ngettext("%s held job goes on.", "%s held jobs go on.", count)
    messages.info(request, text % f"{count:,}")


RAISE = Verb(
    name="raise",
    method=_raise_and_resume,
    label=_("Raise and resume"),
    hint=_("Set a higher cap, and let all jobs go on that it holds, from their checkpoints."),
    logged=_("Raised; the jobs that it held go on."),
)
RESUME = Verb(
    name="resume",
    method=_resume,
    label=_("Resume"),
    hint=_("Let the jobs go on that it holds. Where nothing is left for them, they are held again."),
    logged=_("The jobs that it held go on."),
)
START_OVER = Verb(
    name="start_over",
    method=lambda _request, budgets: budgets.start_over(),
    label=_("Start over"),
    hint=_("Count what is spent from zero again. The costs are kept."),
    logged=_("Counts from zero again."),
)
