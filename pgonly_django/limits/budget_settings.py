"""PGONLY["BUDGETS"]: {name or shell pattern: {"usd": 5, "per": "month", "timezone": "Asia/Shanghai"}}."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from pgonly_django import amounts
from pgonly_django.conf import nearest_zone, settings, unknown_key
from pgonly_django.exceptions import AmountError, BudgetError

KEYS = ("usd", "per", "timezone")
BudgetPeriod = Literal["hour", "day", "week", "month", "year"]
BUDGET_PERIODS = get_args(BudgetPeriod)
WILDCARDS = "*?["
NAME_LENGTH = 240  # with "budget:" before it, it is a job's held_by


@dataclass(frozen=True, slots=True)
class BudgetDeclaration:
    """The declaration of a budget in code or settings."""

    usd: Decimal
    per: str | None = None
    timezone: str = "UTC"

    @property
    def columns(self) -> dict[str, str | None]:
        """The declaration by column, as JSON can hold it."""
        return {"usd": str(self.usd), "per": self.per, "timezone": self.timezone}


def declaration_of(
    name: str, usd: Any = None, per: str | None = None, timezone: str | None = None
) -> BudgetDeclaration | None:
    """Returns the declaration of the budget `name` by its call, or else by PGONLY["BUDGETS"]; None if it has no cap.
    Raises BudgetError, AmountError and ImproperlyConfigured."""
    given = {"usd": usd, "per": per, "timezone": timezone}
    values = {key: value for key, value in given.items() if value is not None}
    merged = {**_entry_for(name), **values}
    if "usd" not in merged:
        if values:
            raise BudgetError(f"budget({name!r}) has {', '.join(values)} and no cap: add usd=5, for example.")
        return None
    return validated(merged, f"budget({name!r})")


def nearest(name: str) -> str:
    """Returns a hint for the error about an unknown budget."""
    near = get_close_matches(name, list(settings().budgets), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


def exact_names() -> dict[str, BudgetDeclaration]:
    """Returns the entries that are not patterns. Raises ImproperlyConfigured."""
    return {name: _of_settings(name) for name in settings().budgets if not _is_pattern(name)}


def check_name(name: Any, what: str = "A budget's name") -> None:
    """Raises BudgetError for a name that the table cannot hold."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH or not _is_text(name):
        raise BudgetError(
            f"{what} must be text of 1 to {NAME_LENGTH} characters without NUL, got {str(name)[:80]!r}."
        )


def validated(entry: Any, where: str) -> BudgetDeclaration:
    """Returns the declaration. Raises BudgetError and AmountError, with the place, the value and what it may be."""
    if not isinstance(entry, Mapping):
        raise BudgetError(f'{where} must be a dict such as {{"usd": 5, "per": "month"}}, got {entry!r}.')
    for key in entry:
        if key not in KEYS:
            raise BudgetError(unknown_key(f'{where}["%s"]', key, KEYS))
    if entry.get("usd") is None:
        raise BudgetError(f'{where} needs "usd", its cap in US dollars.')
    per = entry.get("per")
    if per is not None and per not in BUDGET_PERIODS:
        raise BudgetError(
            f'{where}: "per" must be one of {", ".join(BUDGET_PERIODS)}, or None for no period, got {per!r}.'
        )
    usd = amounts.usd(entry["usd"], f'{where}: "usd"')
    return BudgetDeclaration(usd, per, _timezone(entry.get("timezone"), where))


@contextmanager
def errors_as(kind: type[Exception]) -> Iterator[None]:
    """Raises an error about a budget in the block as an error of this kind."""
    try:
        yield
    except (BudgetError, AmountError) as error:
        raise kind(str(error)) from error


def _of_settings(name: Any) -> BudgetDeclaration:
    """Raises ImproperlyConfigured for an entry of PGONLY["BUDGETS"] that no budget can have."""
    with errors_as(ImproperlyConfigured):
        check_name(name, 'A name in PGONLY["BUDGETS"]')
        return validated(settings().budgets[name], f'PGONLY["BUDGETS"][{name!r}]')


def check_budgets(**_: object) -> list[checks.CheckMessage]:
    """The system check E005: an entry of PGONLY["BUDGETS"] that no budget can have."""
    try:
        budgets = settings().budgets
    except ImproperlyConfigured:
        return []  # E001 says it
    messages: list[checks.CheckMessage] = []
    for name in budgets:
        try:
            _of_settings(name)
        except ImproperlyConfigured as error:
            hint = "See docs/how-to/budgets.md#settings."
            messages.append(checks.Error(str(error), hint=hint, id="pgonly_django.E005"))
    return messages


def _timezone(name: Any, where: str) -> str:
    if name is None:
        return django_settings.TIME_ZONE or "UTC"
    try:
        return ZoneInfo(name).key
    except Exception as error:
        hint = nearest_zone(str(name))
        wrong = f'{where}: "timezone" must be the name of a time zone, got {name!r}. {hint}'
        raise BudgetError(wrong) from error


def _entry_for(name: str) -> Mapping[str, Any]:
    """Returns the entry of that name, or else of the longest pattern that matches."""
    budgets = settings().budgets
    matching = [key for key in budgets if _is_pattern(key) and fnmatchcase(name, key)]
    if name not in budgets and not matching:
        return {}
    chosen = name if name in budgets else max(matching, key=len)
    _of_settings(chosen)
    return {key: value for key, value in budgets[chosen].items() if value is not None}


def _is_pattern(name: str) -> bool:
    return any(wildcard in name for wildcard in WILDCARDS)


def _is_text(name: str) -> bool:
    return "\x00" not in name and name == name.encode(errors="replace").decode()
