"""How a task's options treat a kind of error: `never_retry`, `retry_on`, `snooze_on`, `hold_on`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Literal

Policy = Literal["never_retry", "retry_on", "snooze_on", "hold_on"]
POLICIES: tuple[Policy, ...] = ("never_retry", "retry_on", "snooze_on", "hold_on")
# An exception class, or its dotted path.
ErrorClass = type[BaseException] | str
ErrorClasses = ErrorClass | tuple[ErrorClass, ...]
ERRORS_RULE = "an exception class, its dotted path, or a tuple of these"


def is_error_classes(value: Any) -> bool:
    return all(map(_is_error_class, _error_classes(value)))


def _error_classes(value: Any) -> tuple[Any, ...]:
    """Returns one class or path alone as a tuple of one."""
    return value if isinstance(value, tuple) else (value,)


def _is_error_class(value: Any) -> bool:
    if isinstance(value, str):
        return "." in value and all(part.isidentifier() for part in value.split("."))
    return isinstance(value, type) and issubclass(value, BaseException)


def stored_errors(value: Any) -> list[str]:
    """Returns the paths of the classes, as a job's row keeps them. A class need not be importable by its path."""
    return [each if isinstance(each, str) else _path(each) for each in _error_classes(value)]


def policy_of(error: BaseException, options: Any) -> Policy | None:
    """Returns the policy, of the TaskOptions, that names the error's class or, of its base classes, the nearest one.

    For an exception group that is not named itself, all the errors in it count: one that is never retried decides, then
    one that holds; it is snoozed where all of them are, and named by `retry_on` where the others are.
    """
    own = _policy_of_class(type(error), options)
    if own is not None or not isinstance(error, BaseExceptionGroup):
        return own
    inside = {_policy_of_class(type(leaf), options) for leaf in errors_in(error)}
    if "never_retry" in inside or "hold_on" in inside:
        return "never_retry" if "never_retry" in inside else "hold_on"
    if inside == {"snooze_on"}:
        return "snooze_on"
    return "retry_on" if inside <= {"retry_on", "snooze_on"} else None


def _policy_of_class(kind: type[BaseException], options: Any) -> Policy | None:
    named = {
        policy: [each if isinstance(each, type) else _loaded(each) for each in chosen] + [*chosen]
        for policy in POLICIES
        if (chosen := _error_classes(getattr(options, policy)))
    }
    for base in kind.__mro__:
        for policy, classes in named.items():
            if base in classes or _path(base) in classes:
                return policy
    return None


def _loaded(path: str) -> Any:
    """Returns what stands at this path of the modules that are imported: a class may have another path, too. Nothing is
    imported: the error was raised here, so its class is loaded, and a class that does not exist any more cannot be
    raised."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(sys.modules.get(module), name, None)
    except Exception:  # noqa: BLE001 - a module may have its own __getattr__
        return None


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def errors_in(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Yields those that are not groups themselves."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from errors_in(error)
        else:
            yield error
