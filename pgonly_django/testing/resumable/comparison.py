"""Compares what two runs left behind, and says in words what differs.

Rows that the test had prepared are compared by their primary key. Of new rows the keys may differ, so those are
compared as a bag: how many there are with the same values. A reference to a new row counts as that row's values. What
already differs between two runs without a kill (the time of a save, a random id) is compared as empty or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pgonly_django.testing.resumable.rows import Reference, Row, Rows, model_of

SHOWN = 3  # rows of a model in a message
LENGTH = 300  # of one of them
REFERENCES_FOLLOWED = 2

Field = tuple[str, str]  # label of a model, name of a field
Form = tuple[tuple[str, Any], ...]  # a row that can be counted


class NotResumableError(AssertionError):
    """After a kill and a resume the job did not end as without a kill, or paid for a call twice."""


class NotTestableError(AssertionError):
    """assert_resumable() cannot judge the job here; the message says what to change."""


@dataclass(frozen=True)
class Comparison:
    """`prepared` are the rows before the job, `ignored` labels of models, `unsteady` fields that differ anyway."""

    prepared: Rows
    ignored_models: frozenset[str]
    ignored_fields: frozenset[Field]
    unsteady: frozenset[Field] = frozenset()

    def unsteady_fields(self, one: Rows, two: Rows) -> frozenset[Field]:
        """The fields that differ between two runs without a kill."""
        found = set()
        for label in self._labels(one):
            names = next(iter([*one[label].values(), *two[label].values()]), {})
            for name in names:
                if self._values(one, label, name) != self._values(two, label, name):
                    found.add((label, name))
        return frozenset(found)

    def differences(self, expected: Rows, got: Rows) -> list[str]:
        """In words; empty where the rows are the same."""
        return [each for label in self._labels(expected) for each in self._of_model(label, expected, got)]

    def _labels(self, rows: Rows) -> list[str]:
        return [label for label in rows if model_of(label) not in self.ignored_models]

    def _of_model(self, label: str, expected: Rows, got: Rows) -> Iterator[str]:
        prepared = self.prepared[label]
        for key in prepared:
            yield from self._of_row(label, key, expected, got)
        wanted, found = self._new_rows(expected, label), self._new_rows(got, label)
        if wanted != found:
            yield f"{label}: " + _bags_differ(wanted, found)

    def _of_row(self, label: str, key: str, expected: Rows, got: Rows) -> Iterator[str]:
        wanted, found = expected[label].get(key), got[label].get(key)
        if wanted is None or found is None:
            if wanted is not found:
                yield f"{label} {key} was {'kept' if wanted is None else 'deleted'}."
            return
        forms = dict(self._form(expected, label, wanted)), dict(self._form(got, label, found))
        for name, value in forms[0].items():
            if forms[1][name] != value:
                yield f"{label} {key}: {name} is {_short(forms[1][name])} instead of {_short(value)}."

    def _new_rows(self, rows: Rows, label: str) -> Counter[Form]:
        prepared = self.prepared[label]
        return Counter(
            self._form(rows, label, row) for key, row in rows[label].items() if key not in prepared
        )

    def _values(self, rows: Rows, label: str, name: str) -> Any:
        """Of one field: of the prepared rows by key, and of the new rows as a bag. Not of references to new rows,
        whose own values are compared."""
        prepared, own = self.prepared[label], rows[label]
        new = Counter(str(self._known(row[name])) for key, row in own.items() if key not in prepared)
        return {key: self._known(row[name]) for key, row in own.items() if key in prepared}, new

    def _known(self, value: Any) -> Any:
        is_new = isinstance(value, Reference) and value.key not in self.prepared.get(
            value.label, {value.key: {}}
        )
        return "a new row" if is_new else value

    def _form(self, rows: Rows, label: str, row: Row, depth: int = REFERENCES_FOLLOWED) -> Form:
        return tuple(
            (name, self._value(rows, (label, name), value, depth))
            for name, value in row.items()
            if (model_of(label), name) not in self.ignored_fields
        )

    def _value(self, rows: Rows, field: Field, value: Any, depth: int) -> Any:
        if field in self.unsteady:
            return None if value is None else "(some value)"
        if not isinstance(value, Reference):
            return value
        target = rows.get(value.label, {}).get(value.key)
        if target is None or value.key in self.prepared[value.label]:
            return f"{value.label} {value.key}"
        return self._form(rows, value.label, target, depth - 1) if depth else f"a new {value.label}"


def calls_differ(expected: Counter[str], got: Counter[str], allowed: Counter[str]) -> list[str]:
    """`allowed`: the calls that were under way at the kill, which may be made once more."""
    said = []
    for call in sorted(expected | got):
        wanted, made = expected[call], got[call]
        if made > wanted + allowed[call]:
            said.append(f"{call} was called {_times(made)} instead of {_times(wanted)}: it was paid twice.")
        elif made < wanted:
            said.append(f"{call} was called {_times(made)} instead of {_times(wanted)}.")
    return said


def _bags_differ(wanted: Counter[Form], found: Counter[Form]) -> str:
    is_as_many = wanted.total() == found.total()
    rows = "row" if found.total() == 1 else "rows"
    said = [
        "other values in new rows."
        if is_as_many
        else f"{found.total()} new {rows} instead of {wanted.total()}."
    ]
    for what, forms in (("Too many", found - wanted), ("Missing", wanted - found)):
        shown = [_shown(form) for form in list(forms.elements())[:SHOWN]]
        more = forms.total() - len(shown)
        if shown:
            said.append(f"{what}: {'; '.join(shown)}{f' and {more} more' if more else ''}.")
    return " ".join(said)


def _shown(form: Form) -> str:
    return _short(_as_dict(form))


def _as_dict(form: Form) -> dict[str, Any]:
    """Without what is empty."""
    nested = ((name, _as_dict(value) if isinstance(value, tuple) else value) for name, value in form)
    return {name: value for name, value in nested if value is not None}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}..."


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
