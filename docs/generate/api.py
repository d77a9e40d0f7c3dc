"""reference/api.md"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Collection, Iterator
from dataclasses import is_dataclass
from typing import Any

from docs.generate.markdown import (
    described,
    documentation,
    in_one_line,
    own_doc,
    paragraphs,
    signature,
    table,
)
from pgonly_django.tasks import PostgresTask

MODULES = {
    "pgonly_django": "Its exceptions, and the others: [exceptions.md](exceptions.md).",
    "pgonly_django.cache": "`CACHES` names `pgonly_django.cache.PostgresCache`: [cache.md](../how-to/cache.md).",
    "pgonly_django.sessions": "`SESSION_ENGINE` names this module: [sessions.md](../how-to/sessions.md).",
    "pgonly_django.testing": "For the tests of a project: [testing.md](../how-to/testing.md).",
}
OTHERS = {
    "pgonly_django.embedded": ("database", "stop"),
    "pgonly_django.events": ("subscribe",),
    "pgonly_django.instruments": (
        "carry", "around_enqueue", "around_run", "around_step", "on_failed", "on_stop",
        "EnqueuedJob", "Enqueue", "JobRun",
    ),
    "pgonly_django.logs": ("JobFilter",),
    "pgonly_django.database.wake_urls": ("flush",),
    "pgonly_django.monitoring.opentelemetry": ("instrument", "uninstrument"),
    "pgonly_django.monitoring.progress": ("progress_of", "BatchProgress"),
    "pgonly_django.monitoring.prometheus": ("PgonlyCollector",),
    "pgonly_django.monitoring.sentry": ("PgonlyIntegration",),
    "pgonly_django.monitoring.stats": ("stats", "Stats"),
    "pgonly_django.scheduling.calls": ("run_now",),
}  # fmt: skip
# Modules whose names a how-to explains.
ON_PAGES = {
    "pgonly_django.admin.jobs": "admin.md",
    "pgonly_django.contrib.pydantic_ai": "language_models.md#pydantic-ai",
    "pgonly_django.throttling.ninja": "limits.md#throttle-requests",
    "pgonly_django.throttling.rest_framework": "limits.md#throttle-requests",
}
MADE_BY_PROJECTS = {"Backoff", "Cost", "Costed", "PgonlyCollector", "PgonlyIntegration"}
# On pages of their own.
ELSEWHERE = {"JobContext": "tasks.md#the-job-context"}
FIELD = re.compile(r"^    (\w+): ([^=#\n]+?)(?: = [^#\n]*?)?(?:  # (.*))?$", re.MULTILINE)
# Whose methods are a contract of Django's or Python's.
NO_MEMBERS = {"SessionStore", "JobFilter", "PgonlyCollector", "PgonlyIntegration"}
# What other modules of the package call.
INTERNAL = {
    "PostgresCache": {
        "failed", "raising", "seconds_of", "stored_key", "validate_key",
    },
    "Cost": {"of"},
}  # fmt: skip
TEXT = """
# Public names

The names that your code may import. A name that is not on this page, on another page of the
reference or in a how-to may change in any version.
"""


def page() -> str:
    parts = [TEXT.strip()]
    for name, text in MODULES.items():
        parts += [f"## {name}", text, *names(name, importlib.import_module(name).__all__)]
    for name, public in OTHERS.items():
        parts += [f"## {name}", *names(name, public)]
    rows = [(f"`{module}`", f"[{where}](../how-to/{where})") for module, where in ON_PAGES.items()]
    parts += ["## Further modules", table(["module", "page"], rows)]
    return "\n\n".join(part for part in parts if part)


def names(module: str, public: Collection[str]) -> Iterator[str]:
    interrupts = []
    for name in public:
        thing = getattr(importlib.import_module(module), name)
        if isinstance(thing, type) and issubclass(thing, BaseException):
            interrupts.append((f"`{name}`", in_one_line(thing)))
        else:
            yield from entry(name, thing)
    if interrupts:
        yield "### Exceptions"
        yield table(["exception", ""], interrupts)


def entry(name: str, thing: Any) -> Iterator[str]:
    yield f"### {name}"
    if name in ELSEWHERE:
        link = ELSEWHERE[name]
        yield paragraphs(f"{own_doc(thing)} Its methods: [{link.partition('#')[0]}]({link}).")
        return
    if not isinstance(thing, type) or name in MADE_BY_PROJECTS or name.islower():
        yield f"```python excerpt\n{declared(thing, name)}\n```"
    yield paragraphs(without_options(own_doc(thing))) if name == "task" else documentation(thing)
    if is_dataclass(thing) and name not in MADE_BY_PROJECTS:
        yield attributes(thing)
    if isinstance(thing, type) and name not in NO_MEMBERS:
        yield members(thing, name, INTERNAL.get(name, ()))
    if name == "task":
        yield "The task has Django's methods `enqueue`, `aenqueue`, `get_result`, `aget_result`, and:"
        for method in (PostgresTask.using, PostgresTask.bind):
            yield f"```python excerpt\n{declared(method, method.__name__)}\n```"
            yield documentation(method)


def without_options(text: str) -> str:
    """The docstring of @task without its options, which are in the table of another page."""
    table = "[Options](tasks.md#options) has the others.\n\n"
    return re.sub(r"The other\s+options,.*?\n\n- .*?\n\n", table, text, flags=re.DOTALL)


def declared(thing: Any, name: str) -> str:
    shown = signature(thing, name)
    return f"def {shown}: ..." if name.islower() else shown.replace("*, ", "")


def members(kind: type, owner: str, hidden: Collection[str] = ()) -> str:
    """The public methods and properties that this package gives the class, without the async twins of others."""
    found = {
        name: value
        for base in reversed(kind.__mro__)
        if base.__module__.startswith("pgonly_django")
        for name, value in vars(base).items()
        if is_public(name, value) and name not in hidden
    }
    rows = [(shown(name, value), unwrapped(value)) for name, value in found.items() if not is_twin(value)]
    return described(f"`{owner}.`", rows)


def attributes(kind: type) -> str:
    """The fields of a dataclass that this package makes, with the comments behind them."""
    rows = FIELD.findall(inspect.getsource(kind))
    return table(["attribute", "type", ""], [(f"`{name}`", f"`{of}`", says) for name, of, says in rows])


def is_public(name: str, value: Any) -> bool:
    """A method or property with a docstring. Those without one are Django's, and mean the same here."""
    is_called = inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod))
    return is_called and not name.startswith("_") and bool(own_doc(unwrapped(value)))


def unwrapped(value: Any) -> Any:
    return getattr(value, "__func__", value)


def shown(name: str, value: Any) -> str:
    return (
        f"`{name}`" if isinstance(value, property) else f"`{signature(unwrapped(value), name, width=1000)}`"
    )


def is_twin(value: Any) -> bool:
    """`aget`, whose docstring is "See get()."."""
    return (
        inspect.iscoroutinefunction(value) and own_doc(value).startswith("See ") and len(own_doc(value)) < 40
    )
