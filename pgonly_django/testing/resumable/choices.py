"""What assert_resumable() was told, validated."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.conf import UserSettingsHolder
from django.conf import settings as django_settings
from django.core.exceptions import FieldDoesNotExist
from django.db import models

from pgonly_django.compat import Task
from pgonly_django.database import testrun
from pgonly_django.tasks.backend import PostgresBackend
from pgonly_django.testing.resumable.errors import NotTestableError
from pgonly_django.testing.resumable.rows import JOBS, meta_of

FIELD_PARTS = 3  # app, model, field


@dataclass(frozen=True)
class Choices:
    """See assert_resumable()."""

    task: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: Callable[[], Any] | None
    ignore: tuple[str | type[models.Model], ...]
    paid: tuple[str | Callable[..., Any], ...]
    setup: str | Callable[[], Any] | None
    kill_at: str | int | Sequence[int]
    max_kills: int
    timeout: float

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise TypeError(f"assert_resumable() needs a task, as @task makes it, got {self.task!r}.")
        if not testrun.is_on():
            raise NotTestableError("assert_resumable() works in a test run only, on a test database.")
        backend = self.task.get_backend()
        if not isinstance(backend, PostgresBackend):
            raise NotTestableError(
                f"The jobs of {self.task.module_path} go to {type(backend).__name__} here, which keeps none. Give "
                f"TASKS[{self.task.backend!r}] the PostgresBackend in this test, with override_settings()."
            )
        testrun.refuse_real_database(self.alias, "assert_resumable() copies it.")
        if self.state is not None and not callable(self.state):
            raise TypeError(f"state must be a function without parameters, got {self.state!r}.")
        if not (self.kill_at == "saves" or self._numbers):
            raise ValueError(
                f'kill_at must be "saves", or numbers of saves from 1 such as [3, 4], got {self.kill_at!r}.'
            )
        if self.max_kills < 1:
            raise ValueError(f"max_kills must be 1 or more, got {self.max_kills!r}.")
        if self.timeout <= 0:
            raise ValueError(f"timeout must be a number of seconds over 0, got {self.timeout!r}.")
        _ = self.ignored, self.paid_paths, self.setup_path  # each raises where something is wrong

    @property
    def alias(self) -> str:
        """The one whose database has the jobs."""
        alias: str = self.task.get_backend().database
        return alias

    def kills(self, saves: int) -> list[int]:
        """The numbers of the saves, of so many, at which to kill."""
        chosen = list(range(1, saves + 1)) if self.kill_at == "saves" else self._numbers
        beyond = [number for number in chosen if number > saves]
        if beyond:
            raise NotTestableError(f"kill_at names save {beyond[0]}, and the job has {saves}.")
        most = self.max_kills
        if len(chosen) <= most:
            return chosen
        return [chosen[place * (len(chosen) - 1) // max(most - 1, 1)] for place in range(most)]

    @property
    def _numbers(self) -> list[int]:
        """Those of kill_at; empty where it is no such list."""
        given: Any = [self.kill_at] if isinstance(self.kill_at, int) else self.kill_at
        if isinstance(given, str) or not all(isinstance(it, int) and it >= 1 for it in given):
            return []
        return sorted(set(given))

    @property
    def ignored(self) -> tuple[frozenset[str], frozenset[tuple[str, str]], bool]:
        """Labels of models, fields, and whether the result is ignored. Raises ValueError."""
        named, fields = set(), set()
        for each in self.ignore:
            if isinstance(each, str) and each in ("result", "jobs"):
                named.add(JOBS if each == "jobs" else each)
            elif isinstance(each, str) and each.count(".") == FIELD_PARTS - 1:
                label, _, field = each.rpartition(".")
                model = _model(label)
                fields.add((meta_of(model).label, _field(model, field)))
            else:
                named.add(meta_of(_model(each)).label)
        return frozenset(named - {"result"}), frozenset(fields), "result" in named

    @property
    def paid_paths(self) -> dict[str, str]:
        """ "module:name" of each, by what a message calls it."""
        paths = [path_of(each, "paid") for each in self.paid]
        return {path.replace(":", ".") + "()": path for path in paths}

    @property
    def setup_path(self) -> str | None:
        return None if self.setup is None else path_of(self.setup, "setup")

    @property
    def modules(self) -> dict[str, str | None]:
        """What a child process has to import, with the files."""
        names = [self.task.func.__module__, *(it.partition(":")[0] for it in self.paid_paths.values())]
        if self.setup_path is not None:
            names.append(self.setup_path.partition(":")[0])
        return {name: getattr(sys.modules[name], "__file__", None) for name in names}


def settings_module() -> str | None:
    """None where the settings come from settings.configure()."""
    *_, first = _layers()
    module: str | None = getattr(first, "SETTINGS_MODULE", None)
    return module


def settings_changed_by_test() -> dict[str, Any]:
    """What override_settings() and its like have set, or all of settings.configure(). Raises NotTestableError for a
    value that no other process can be given."""
    changed: dict[str, Any] = {}
    for layer in _layers()[:-1]:
        own = {name: value for name, value in vars(layer).items() if name.isupper() and name != "DATABASES"}
        changed = {**own, **changed}
    for name, value in changed.items():
        require_picklable(f"settings.{name}", value)
    return changed


def require_picklable(name: str, value: Any) -> None:
    """Raises NotTestableError for what no other process can be given."""
    try:
        pickle.dumps(value)
    except Exception as error:  # noqa: BLE001 - objects raise what they like when they are pickled
        raise NotTestableError(
            f"{name} has a value in this test that no child process can be given: {error}. Use functions and classes "
            "that stand at the top of a module."
        ) from None


def path_of(function: Any, option: str) -> str:
    """ "module:name" of a function, or of its dotted path. Raises ValueError for what no other process can import."""
    if isinstance(function, str):
        parts = function.split(".")
        for count in range(len(parts) - 1, 0, -1):
            module = sys.modules.get(".".join(parts[:count]))
            if module is not None and _has(module, parts[count:]):
                return f"{module.__name__}:{'.'.join(parts[count:])}"
        raise ValueError(f"{option}: there is no {function!r} in the modules that are imported.")
    name = getattr(function, "__qualname__", "<")
    if "<" in name or not _has(sys.modules.get(function.__module__), name.split(".")):
        raise ValueError(
            f"{option} must be a function that another process can import, or its dotted path, got {function!r}. Move "
            "it to the top of its module."
        )
    return f"{function.__module__}:{name}"


def _layers() -> list[Any]:
    """From the last change of the settings to what was there first."""
    lazy: Any = django_settings  # the stubs know it as what it wraps
    layers = [lazy._wrapped]  # noqa: SLF001 - there is no other way to tell what a test has changed
    while isinstance(layers[-1], UserSettingsHolder):
        layers.append(layers[-1].default_settings)
    return layers


def _has(value: Any, names: list[str]) -> bool:
    for name in names:
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


def _model(given: Any) -> type[models.Model]:
    if isinstance(given, type) and issubclass(given, models.Model):
        return given
    try:
        found: type[models.Model] = apps.get_model(given)
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f'ignore takes models ("shop.Order"), fields ("shop.Order.sent_at"), "result" and "jobs", got {given!r}: '
            f"{error}"
        ) from None
    return found


def _field(model: type[models.Model], name: str) -> str:
    try:
        return str(meta_of(model).get_field(name).name)
    except FieldDoesNotExist as error:
        raise ValueError(f"ignore: {error}") from None
