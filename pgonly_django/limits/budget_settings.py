"""PGONLY["BUDGETS"]: {name or shell pattern: {"usd": 5, "per": "month", "timezone": "Asia/Shanghai"}}."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from pgonly_django import amounts
from pgonly_django.conf import nearest_zone, settings, unknown_key
from pgonly_django.exceptions import AmountError, BudgetError

KEYS = ("usd", "per", "timezone")
PERIODS = ("hour", "day", "week", "month", "year")
WILDCARDS = "*?["
NAME_LENGTH = 240  # with "budget:" before it, it is a job's held_by


@dataclass(frozen=True, slots=True)
class BudgetDeclaration:
    """What code or settings say of a budget."""

    usd: Decimal
    per: str | None = None
    timezone: str = "UTC"

    @property
    def columns(self) -> dict[str, str | None]:
        """As JSON can hold it, by column."""
        return {"usd": str(self.usd), "per": self.per, "timezone": self.timezone}


def declaration_of(
    name: str, usd: Any = None, per: str | None = None, timezone: str | None = None
) -> BudgetDeclaration | None:
    """What is said of the budget `name`, by its call and by PGONLY["BUDGETS"]; the call wins. None: it has no
    cap. Raises BudgetError, AmountError and ImproperlyConfigured."""
    given = {"usd": usd, "per": per, "timezone": timezone}
    values = {key: value for key, value in given.items() if value is not None}
    merged = {**_entry_for(name), **values}
    if "usd" not in merged:
        if values:
            raise BudgetError(f"budget({name!r}) has {', '.join(values)} and no cap: add usd=5, say.")
        return None
    return validated(merged, f"budget({name!r})")


def nearest(name: str) -> str:
    """For the error about an unknown budget."""
    near = get_close_matches(name, list(settings().budgets), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


def exact_names() -> dict[str, BudgetDeclaration]:
    """The entries that are no patterns. Raises ImproperlyConfigured."""
    return {
        name: validated(entry, _place(name), ImproperlyConfigured)
        for name, entry in settings().budgets.items()
        if not _is_pattern(name)
    }


def check_name(name: Any, what: str = "A budget's name", error: type[Exception] = BudgetError) -> None:
    """Raises `error` for a name that the table cannot hold."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH or not _is_text(name):
        raise error(
            f"{what} must be text of 1 to {NAME_LENGTH} characters without NUL, got {str(name)[:80]!r}."
        )


def validated(entry: Any, where: str, error: type[Exception] = BudgetError) -> BudgetDeclaration:
    """Raises `error`, with the place, the value and what it may be."""
    if not isinstance(entry, Mapping):
        raise error(f'{where} must be a dict such as {{"usd": 5, "per": "month"}}, got {entry!r}.')
    for key in entry:
        if key not in KEYS:
            raise error(unknown_key(f'{where}["%s"]', key, KEYS))
    per = entry.get("per")
    if per is not None and per not in PERIODS:
        raise error(
            f'{where}: "per" must be one of {", ".join(PERIODS)}, or None for no period, got {per!r}.'
        )
    return BudgetDeclaration(_cap(entry, where, error), per, _timezone(entry.get("timezone"), where, error))


def check_budgets(**_: object) -> list[checks.CheckMessage]:
    """The system check E005: an entry of PGONLY["BUDGETS"] that no budget can have."""
    try:
        budgets = settings().budgets
    except ImproperlyConfigured:
        return []  # E001 says it
    messages: list[checks.CheckMessage] = []
    for name, entry in budgets.items():
        try:
            check_name(name, 'A name in PGONLY["BUDGETS"]', ImproperlyConfigured)
            validated(entry, _place(name), ImproperlyConfigured)
        except ImproperlyConfigured as error:
            hint = "See docs/how-to/budgets.md#settings."
            messages.append(checks.Error(str(error), hint=hint, id="pgonly_django.E005"))
    return messages


def _cap(entry: Mapping[str, Any], where: str, error: type[Exception]) -> Decimal:
    if entry.get("usd") is None:
        raise error(f'{where} needs "usd", its cap in US dollars.')
    try:
        return amounts.usd(entry["usd"], f'{where}: "usd"')
    except AmountError as wrong:
        if error is BudgetError:
            raise
        raise error(str(wrong)) from wrong


def _timezone(name: Any, where: str, error: type[Exception]) -> str:
    if name is None:
        return django_settings.TIME_ZONE or "UTC"
    try:
        return ZoneInfo(name).key
    except Exception as wrong:
        hint = nearest_zone(str(name))
        raise error(f'{where}: "timezone" must be the name of a time zone, got {name!r}. {hint}') from wrong


def _entry_for(name: str) -> Mapping[str, Any]:
    """The entry of that name, else of the longest pattern that matches."""
    budgets = settings().budgets
    matching = [key for key in budgets if _is_pattern(key) and fnmatchcase(name, key)]
    if name not in budgets and not matching:
        return {}
    chosen = name if name in budgets else max(matching, key=len)
    validated(budgets[chosen], _place(chosen), ImproperlyConfigured)
    return {key: value for key, value in budgets[chosen].items() if value is not None}


def _is_pattern(name: str) -> bool:
    return any(wildcard in name for wildcard in WILDCARDS)


def _is_text(name: str) -> bool:
    return "\x00" not in name and name == name.encode(errors="replace").decode()


def _place(name: str) -> str:
    return f'PGONLY["BUDGETS"][{name!r}]'
