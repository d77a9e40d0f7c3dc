"""Rows whose values stand in settings or code, and which a person may change in the admin: what a person changed
survives a deploy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import models
from django.db.models import Case, F, Value, When
from django.utils.translation import gettext_lazy as _

from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.readable import ReadableJsonField, TimestampField

NAME_LENGTH = 255


class DeclaredQuerySet(models.QuerySet[Any]):
    def declare(self, declarations: Mapping[str, Mapping[str, Any]]) -> int:
        """Make these rows say what the code declares: {name: {column: value}}, with values that JSON can hold. Rows
        that a person has edited stay. Returns how many declarations are new or have changed. Safe to call from many
        processes at once, and cheap when nothing has changed."""
        known = dict(self.filter(name__in=declarations).values_list("name", "declared"))
        new = {name: dict(values) for name, values in declarations.items() if known.get(name) != dict(values)}
        if not new:
            return 0
        rows = [self.model(name=name, declared=values, **values) for name, values in sorted(new.items())]
        self.bulk_create([row for row in rows if row.name not in known], ignore_conflicts=True)
        for name, values in sorted(new.items()):
            changes = {**self.follow_from(values), **values}
            unless_edited = {column: self._unless_edited(column, value) for column, value in changes.items()}
            self.filter(name=name).exclude(declared=values).update(declared=values, **unless_edited)
        return len(new)

    def edit(self, **values: Any) -> int:
        """What a person does: set columns, which no declaration overwrites from now on. Returns how many rows."""
        return self.update(edited_at=ClockTimestamp(), **self.follow_from(values), **values)

    def reset(self) -> int:
        """Undo edit(): the rows say what the code declares. Returns how many rows changed."""
        count = 0
        for row in self.filter(edited_at__isnull=False, declared__isnull=False):
            values: dict[str, Any] = row.declared
            changes = {**self.follow_from(values), **values}
            count += self.filter(pk=row.pk).update(edited_at=None, **changes)
        return count

    def follow_from(self, values: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - for those that override it
        """What other columns become, as values or expressions over the row as it was, when `values` are set."""
        return {}

    def _unless_edited(self, column: str, value: Any) -> Case:
        field = self.model._meta.get_field(column)  # noqa: SLF001 - Django's documented API
        new = value if hasattr(value, "resolve_expression") else Value(value, output_field=field)
        return Case(When(edited_at__isnull=True, then=new), default=F(column), output_field=field)


class Declared(models.Model):
    name = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    declared = ReadableJsonField(
        null=True, help_text=_("What settings or code say; empty: made by a person.")
    )
    edited_at = TimestampField(null=True, help_text=_("When a person changed it; code changes it no more."))

    objects = DeclaredQuerySet.as_manager()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return str(self.name)
