"""Runs the Python of one page in one namespace, as a module of a project that has what the page assumes."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import os
import sys
import types
from collections.abc import Iterator, MutableMapping
from typing import Any, Self

import django
from asgiref.sync import async_to_sync
from django.conf import global_settings, settings
from django.contrib import admin
from django.core import checks
from django.db import connections
from django.test import TestCase, override_settings
from django.urls.resolvers import RegexPattern, URLResolver

from pgonly_django import events
from pgonly_django.scheduling import decorators
from pgonly_django.tasks import registry
from pgonly_django.tasks.registry import find_task
from tests import urls
from tests.aliases import alias
from tests.docs.assumed import TASKS
from tests.docs.pages import Block, Page
from tests.guards import place

importlib.import_module(f"{TASKS}.signals")  # makes other backends when a page sets TASKS

OTHER_SETTINGS = {"PGONLY"}  # those that Django itself does not know


class Run(contextlib.ExitStack):
    """Whatever the page registers or sets is undone at the end of the `with`."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        name = page.name.replace("-", "_").replace("/", "_").lower()
        self.module = types.ModuleType(f"docs_{name}")
        vars(self.module)["INSTALLED_APPS"] = [...]  # to which a block adds with +=

    def __enter__(self) -> Self:
        super().__enter__()
        self.enter_context(restored_modules())
        for known in (
            os.environ,
            decorators._declared,
            registry._claimed,
            admin.site._registry,
        ):
            self.enter_context(restored(known))
        self.callback(events._listeners.__setitem__, slice(None), events._listeners[:])
        self.callback(find_task.cache_clear)
        sys.modules[self.module.__name__] = self.module
        return self

    def all(self) -> None:
        """What the page assumes, its blocks in their order, and then `after(page)`, which checks what they made."""
        if self.page.before.exists():
            exec(compile(self.page.before.read_text(), self.page.before, "exec"), vars(self.module))
            self.use_settings({name: value for name, value in vars(self.module).items() if is_setting(name)})
        after = vars(self.module).pop("after", None)
        with TestCase.captureOnCommitCallbacks(execute=True):
            for block in self.page.blocks:
                if block.language == "python":
                    self.run(block)
        if after is not None:
            after(self.module)

    def run(self, block: Block) -> None:
        tree = self.parsed(block)
        if block.is_excerpt:
            import_ours(tree)
            return
        for statement in tree.body:
            self.execute(statement)
        assigned = {name for statement in tree.body for name in names_assigned(statement)}
        if "urlpatterns" in assigned:
            self.use_urls()
        if known := set(filter(is_setting, assigned)):
            self.use_settings({name: vars(self.module)[name] for name in known})

    def parsed(self, block: Block) -> ast.Module:
        code = block.code
        if django.VERSION < (6, 0):
            code = code.replace("django.tasks", "django_tasks")
        tree = ast.parse(code, self.page.path)
        return ast.increment_lineno(tree, block.line - 1)

    def execute(self, statement: ast.stmt) -> None:
        """One at a time: `await` at the top of a page needs an event loop, in which no query of the ORM may be."""
        whole = ast.Module([statement], type_ignores=[])
        code = compile(whole, self.page.path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            made = types.FunctionType(code, vars(self.module))
            async_to_sync(made)()
        else:
            exec(code, vars(self.module))

    def use_urls(self) -> None:
        """The page's patterns, behind those that a project has, serve requests from here on."""
        self.module.urlpatterns = completed(self.module.urlpatterns, urls.urlpatterns)
        messages = URLResolver(RegexPattern(r"^/"), self.module.__name__).check()
        assert messages == [], messages
        self.enter_context(override_settings(ROOT_URLCONF=self.module.__name__))

    def use_settings(self, given: dict[str, Any]) -> None:
        """They hold for the rest of the page, and no system check says more than before."""
        known = messages_of_checks()
        if (pgonly := given.get("PGONLY")) is not None:
            # Not the schema, which is what it was at the start: tests/database/test_in_schema.py has it set.
            new = {name: value for name, value in pgonly.items() if name != "SCHEMA"}
            given["PGONLY"] = {**settings.PGONLY, **new}
        for name, entry in given.pop("DATABASES", {}).items():
            if name not in connections.settings:
                self.enter_context(alias(name, **entry))
        changes = {name: completed(value, getattr(settings, name)) for name, value in given.items()}
        changes = {name: value for name, value in changes.items() if value != getattr(settings, name)}
        self.enter_context(override_settings(**changes))
        new = [each for each in messages_of_checks() if each not in known]
        said = "\n".join(f"{each.id}: {each.msg}" for each in new)
        assert not said, (
            f"{place(self.page.path)}: settings of a block do not pass `manage.py check`:\n{said}"
        )


def import_ours(tree: ast.Module) -> None:
    """What an excerpt imports from this package is there, where the packages that it needs are installed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pgonly_django"):
            try:
                module = importlib.import_module(node.module)
            except ModuleNotFoundError as error:
                if (error.name or "").startswith("pgonly_django"):
                    raise
            else:
                for name in node.names:
                    getattr(module, name.name)


def is_setting(name: str) -> bool:
    return name in OTHER_SETTINGS or (name.isupper() and hasattr(global_settings, name))


def names_assigned(statement: ast.stmt) -> list[str]:
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return [target.id for target in targets if isinstance(target, ast.Name)]


def completed(value: Any, present: Any) -> Any:
    """`[..., "pgonly_django"]` says: behind what is there."""
    if not isinstance(value, list | tuple) or ... not in value:
        return value
    place = value.index(...)
    behind = [each for each in value[place:] if each is not ...]
    return [*value[:place], *(each for each in present if each not in value), *behind]


def messages_of_checks() -> list[checks.CheckMessage]:
    return checks.run_checks(databases=["default"])


@contextlib.contextmanager
def restored(registry: MutableMapping[Any, Any]) -> Iterator[None]:
    was = dict(registry)
    yield
    for name in registry.keys() - was.keys():
        del registry[name]
    registry.update(was)


@contextlib.contextmanager
def restored_modules() -> Iterator[None]:
    """Takes away the modules that the page stands for, which come from no file. A real one that was imported stays: the
    next import of it would make its classes again, and `except` would not know those that are in use."""
    was = dict(sys.modules)
    yield
    for name in sys.modules.keys() - was.keys():
        if getattr(sys.modules[name], "__spec__", None) is None:
            del sys.modules[name]
    sys.modules.update(was)
