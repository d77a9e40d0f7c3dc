"""Rows whose values stand in settings or code, and which a person may change in the admin: what a person changed
survives a deploy.

During a deploy two versions of the code declare the same row. The declaration of the process that started last counts,
also where an older process uses the row for the first time afterwards. The processes of a rollback have started last,
too. Where none of its processes has confirmed a declaration for STALE_AFTER, any other process may replace it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import models, transaction
from django.db.models import Case, F, Value, When
from django.db.models.expressions import RawSQL
from django.db.models.functions import Greatest, Least
from django.utils.translation import gettext_lazy as _

from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.readable import JsonField, TimestampField

NAME_LENGTH = 255
# When this process, or the one that it was forked from, loaded its code, by the clock of its machine.
STARTED_AT = datetime.now(UTC)
STALE_AFTER = timedelta(minutes=15)
# How often a row is confirmed in that time, at most; a worker declares every five minutes, a user each minute.
CONFIRMED = 6
# Of a row `d`, and a process that started at {started}; `stale_after` in seconds. A process no older than this one has
# said lately what the row says; and: the process may let it say something else.
IS_CONFIRMED = f"""d.declarer_started_at >= {{started}}
    AND d.declared_at >= clock_timestamp() - interval '1 second' * {{stale_after}} / {CONFIRMED}"""
MAY_REPLACE = """coalesce(d.declarer_started_at <= {started}
    OR d.declared_at < clock_timestamp() - interval '1 second' * {stale_after}, true)"""


def _declarer() -> dict[str, Any]:
    """Returns the columns that say which process declares. A clock that is ahead makes none newer than later ones."""
    started = Least(Value(STARTED_AT), ClockTimestamp(), output_field=TimestampField())
    return {"declared_at": ClockTimestamp(), "declarer_started_at": started}


class DeclaredQuerySet(models.QuerySet[Any]):
    stale_after = STALE_AFTER

    def declare(self, declarations: Mapping[str, Mapping[str, Any]]) -> int:
        """Makes these rows say what the code declares: {name: {column: value}}, with values that JSON can hold. Rows
        that a person has edited stay, and so does what a process declares that started later than this one and still
        runs. Returns how many rows are new or have changed. Safe to call from many processes at once, and cheap when
        nothing has changed."""
        known = self._known(declarations)
        # In the order of their names: two processes that write the same rows in two orders would deadlock.
        new = {name: dict(values) for name, values in sorted(declarations.items()) if name not in known}
        rows = [
            self.model(name=name, declared=values, **values, **_declarer()) for name, values in new.items()
        ]
        self.bulk_create(rows, ignore_conflicts=True)
        count = len(new)
        unconfirmed = []
        for name, (declared, is_confirmed) in sorted(known.items()):
            if declared != dict(declarations[name]):
                count += self._replace(name, dict(declarations[name]))
            elif not is_confirmed:
                unconfirmed.append(name)
        if unconfirmed:
            self._confirm(unconfirmed)
        return count

    def _confirm(self, names: Iterable[str]) -> None:
        """Leaves out rows that another process has locked: it confirms them, too, or is done by the next time."""
        now = _declarer()
        newest = Greatest("declarer_started_at", now["declarer_started_at"])
        with transaction.atomic(using=self.db):
            rows = self.filter(name__in=names).select_for_update(skip_locked=True, no_key=True)
            free = list(rows.values_list("name", flat=True))
            self.filter(name__in=free).update(**{**now, "declarer_started_at": newest})

    def _known(self, names: Iterable[str]) -> dict[str, tuple[Any, bool | None]]:
        """Returns, by name, what the rows say, and whether a process has confirmed it that is not older than this
        one."""
        rows = self.filter(name__in=names).annotate(is_confirmed=self._of_this_process(IS_CONFIRMED))
        return {name: facts for name, *facts in rows.values_list("name", "declared", "is_confirmed")}

    def _replace(self, name: str, values: dict[str, Any]) -> int:
        changes = {**self.follow_from(values), **values}
        unless_edited = {column: self._unless_edited(column, value) for column, value in changes.items()}
        rows = self.filter(self._of_this_process(MAY_REPLACE), name=name).exclude(declared=values)
        return rows.update(declared=values, **_declarer(), **unless_edited)

    def _of_this_process(self, condition: str) -> RawSQL:
        text = condition.replace("d.", "").format(started="%s", stale_after=self.stale_after.total_seconds())
        return RawSQL(text, [STARTED_AT], output_field=models.BooleanField())  # noqa: S611 - our own text

    def edit(self, **values: Any) -> int:
        """Sets columns for a person. No declaration overwrites them from now on. Returns how many rows."""
        return self.update(edited_at=ClockTimestamp(), **self.follow_from(values), **values)

    def reset(self) -> int:
        """Undoes edit(): the rows say what the code declares. Returns how many rows changed."""
        count = 0
        for row in self.filter(edited_at__isnull=False, declared__isnull=False):
            values: dict[str, Any] = row.declared
            changes = {**self.follow_from(values), **values}
            count += self.filter(pk=row.pk).update(edited_at=None, **changes)
        return count

    def follow_from(self, values: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - for those that override it
        """Returns what other columns become, as values or expressions over the row as it was, when `values` are set."""
        return {}

    def _unless_edited(self, column: str, value: Any) -> Case:
        field = self.model._meta.get_field(column)  # noqa: SLF001 - Django's documented API
        new = value if hasattr(value, "resolve_expression") else Value(value, output_field=field)
        return Case(When(edited_at__isnull=True, then=new), default=F(column), output_field=field)


class Declared(models.Model):
    name = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    declared = JsonField(
        of=dict, null=True, help_text=_("Declared in settings or code; empty: made by a person.")
    )
    declared_at = TimestampField(
        null=True, editable=False, help_text=_("When a process last confirmed the declaration.")
    )
    declarer_started_at = TimestampField(
        null=True,
        editable=False,
        help_text=_("When the newest process that declares it started: older ones change nothing."),
    )
    edited_at = TimestampField(null=True, help_text=_("When a person changed it; code no longer changes it."))

    objects = DeclaredQuerySet.as_manager()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return str(self.name)
