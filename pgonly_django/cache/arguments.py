"""The arguments of a call as a short text, another one for other arguments."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from django.db.models import Model
from django.utils.safestring import SafeString


def digest(arguments: Mapping[str, Any]) -> str:
    """32 hex digits. Raises TypeError, which names an argument whose value has no such form."""
    forms = {}
    for name, value in arguments.items():
        try:
            forms[name] = _form(value)
        except (TypeError, RecursionError) as error:
            raise TypeError(f"{name} has {error}") from error
    return hashlib.sha256(_text(forms).encode()).hexdigest()[:32]


def _form(value: Any) -> Any:
    """`value` as JSON that also says its type. A list in it always begins with the name of a type."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in _FORMS:
        return [kind.__name__, _FORMS[kind](value)]
    if isinstance(value, Model):  # or a lazy object around one, as request.user is
        key, label = value.pk, value._meta.label  # noqa: SLF001 - documented by Django
        if key is None or (isinstance(key, tuple) and None in key):
            raise TypeError(f"a {label} without a primary key, as all have that are not saved")
        return ["Model", label, _form(key)]
    if isinstance(value, Enum):
        # A member that equals its value (TextChoices, StrEnum) stands for it, as it does in the database.
        form = _form(value.value)
        return form if value == value.value else [_path(kind), form]
    if isinstance(value, (date, time)):  # of a subclass, as those of freezegun are
        return [_path(kind), value.isoformat()]
    raise TypeError(f"a value of {_path(kind)}")


def _path(kind: type) -> str:
    if "<locals>" in kind.__qualname__:
        raise TypeError(f"a value of {kind.__qualname__}, whose name others may have")
    return f"{kind.__module__}.{kind.__qualname__}"


def _items(values: Iterable[Any]) -> list[Any]:
    return [_form(value) for value in values]


def _unordered(values: Iterable[Any]) -> list[str]:
    return sorted(_text(form) for form in _items(values))


def _text(form: Any) -> str:
    return json.dumps(form, sort_keys=True)


# JSON writes each value of these without loss, and no two alike.
_PLAIN = {type(None), bool, float, str}
# Of exactly these types: a subclass may hold more than its base shows.
_FORMS: dict[type, Callable[[Any], Any]] = {
    int: hex,  # of any size; as decimals Python writes 4,300 digits
    list: _items,
    tuple: _items,
    set: _unordered,
    frozenset: _unordered,
    dict: lambda value: _unordered(value.items()),
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: lambda value: [value.days, value.seconds, value.microseconds],
    Decimal: str,
    UUID: str,
    bytes: bytes.hex,
    SafeString: str.__str__,
}
