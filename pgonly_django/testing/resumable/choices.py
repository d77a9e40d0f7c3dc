"""What assert_resumable() was told, checked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db import models

from pgonly_django.compat import Task
from pgonly_django.tasks.backend import PostgresBackend
from pgonly_django.testing.backends import postgres_backends
from pgonly_django.testing.resumable.comparison import NotTestableError
from pgonly_django.testing.resumable.rows import CACHE, JOBS, meta_of

FIELD_PARTS = 3  # app, model, field
GROUPS = {"jobs": JOBS, "cache": CACHE, "result": "result"}


@dataclass(frozen=True)
class Choices:
    """See assert_resumable()."""

    task: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: Callable[[], Any] | None
    setup: Callable[[], Any] | None
    ignored: frozenset[str]  # labels of models, and of GROUPS
    ignored_fields: frozenset[tuple[str, str]]
    paid: dict[str, tuple[Any, str]]  # what has the function, and its name there, by what a message calls it
    kill_at: list[int]  # empty: all
    max_kills: int

    @classmethod
    def of(
        cls, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], state: Any, setup: Any, ignore: Any, paid: Any,
        kill_at: Any, max_kills: int,
    ) -> Self:  # fmt: skip
        """Raises TypeError and ValueError for a wrong argument, NotTestableError where the task has no rows."""
        if not isinstance(task, Task):
            raise TypeError(f"assert_resumable() needs a task, as @task makes it, got {task!r}.")
        postgres_backends()  # raises outside of a test run
        if not isinstance(backend := task.get_backend(), PostgresBackend):
            raise NotTestableError(
                f"The jobs of {task.module_path} go to {type(backend).__name__} here, which keeps none. Give "
                f"TASKS[{task.backend!r}] the PostgresBackend in this test, with override_settings()."
            )
        for name, function in (("state", state), ("setup", setup)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function without parameters, got {function!r}.")
        if max_kills < 1:
            raise ValueError(f"max_kills must be 1 or more, got {max_kills!r}.")
        labels, fields = _ignored(_listed("ignore", ignore))
        places = dict(_place_of(each) for each in _listed("paid", paid))
        return cls(task, args, kwargs, state, setup, labels, fields, places, _numbers(kill_at), max_kills)

    @property
    def alias(self) -> str:
        """The one whose database has the jobs."""
        alias: str = self.task.get_backend().database
        return alias

    def kills(self, places: int) -> list[int]:
        """The numbers of the places, of so many, at which to kill."""
        chosen = self.kill_at or list(range(1, places + 1))
        if beyond := [number for number in chosen if number > places]:
            raise NotTestableError(f"kill_at names place {beyond[0]}, and the job has {places}.")
        most = self.max_kills
        if len(chosen) <= most:
            return chosen
        return [chosen[number * (len(chosen) - 1) // max(most - 1, 1)] for number in range(most)]


def _listed(option: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{option} must be a list, such as [{given!r}].")
    return tuple(given)


def _numbers(given: Any) -> list[int]:
    numbers = [given] if isinstance(given, int) else given
    if isinstance(numbers, str) or not all(isinstance(it, int) and it >= 1 for it in numbers):
        raise ValueError(f"kill_at must be numbers of places from 1, such as [3, 4], got {given!r}.")
    return sorted(set(numbers))


def _ignored(given: Sequence[Any]) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    """Labels of models, and fields."""
    labels, fields = set(), set()
    for each in given:
        if isinstance(each, str) and each in GROUPS:
            labels.add(GROUPS[each])
        elif isinstance(each, str) and each.count(".") == FIELD_PARTS - 1:
            label, _, name = each.rpartition(".")
            model = _model(label)
            fields.add((meta_of(model).label, _field(model, name)))
        else:
            labels.add(meta_of(_model(each)).label)
    return frozenset(labels), frozenset(fields)


def _model(given: Any) -> type[models.Model]:
    if isinstance(given, type) and issubclass(given, models.Model):
        return given
    try:
        found: type[models.Model] = apps.get_model(given)
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f'ignore takes models ("shop.Order"), fields ("shop.Order.sent_at"), "result", "jobs" and "cache", got '
            f"{given!r}: {error}"
        ) from None
    return found


def _field(model: type[models.Model], name: str) -> str:
    try:
        return str(meta_of(model).get_field(name).name)
    except FieldDoesNotExist as error:
        raise ValueError(f"ignore: {error}") from None


def _place_of(function: Any) -> tuple[str, tuple[Any, str]]:
    """What a message calls a function of `paid`, and where it stands. Raises ValueError where it stands nowhere."""
    path = function if isinstance(function, str) else _path_of(function)
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        holder: Any = sys.modules.get(".".join(parts[:count]))
        for name in parts[count:-1]:
            holder = getattr(holder, name, None)
        if holder is not None and hasattr(holder, parts[-1]):
            return f"{path}()", (holder, parts[-1])
    raise ValueError(f"paid: there is no {path!r} in the modules that are imported.")


def _path_of(function: Any) -> str:
    name = getattr(function, "__qualname__", "<")
    if "<" in name:
        raise ValueError(f"paid must be functions of a module, or their dotted paths, got {function!r}.")
    return f"{function.__module__}.{name}"
