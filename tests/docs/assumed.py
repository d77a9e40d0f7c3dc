"""What the files in before/ make of a reader's project: its modules, and a context outside of any job."""

from __future__ import annotations

import sys
import types
from typing import Any

from django.test import override_settings

from example_project.screening.models import Paper, Project
from pgonly_django import JobContext, task
from pgonly_django.compat import Task

# "django.tasks", or the backport.
TASKS = Task.__module__.rpartition(".")[0]
IMMEDIATE = {"default": {"BACKEND": f"{TASKS}.backends.immediate.ImmediateBackend", "QUEUES": []}}
DUMMY = {"default": {"BACKEND": f"{TASKS}.backends.dummy.DummyBackend", "QUEUES": []}}
_contexts: list[JobContext] = []


def project_module(name: str, **names: Any) -> None:
    """Makes `name`, such as "shop.tasks", importable until the end of the page."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        parent = sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        parent.__path__ = []
    module = sys.modules.get(name)
    if module is None or module.__spec__ is not None:  # a real one is set aside, and stays as it is
        module = sys.modules[name] = types.ModuleType(name)
    vars(module).update(names)


def this_page_is(name: str, page: str) -> None:
    """The page's module, `__name__` of the file in before/, is also importable as `name`."""
    project_module(name)
    sys.modules[name] = sys.modules[page]


@task(takes_context=True)
def _keep_context(context: JobContext) -> None:
    _contexts.append(context)


def project_with_papers(count: int, **columns: Any) -> Project:
    """Of the example."""
    project = Project.objects.create(name="Cats", reviewers=["points", "pico"], budget_usd=1, **columns)
    Paper.objects.bulk_create(
        Paper(project=project, position=number, title=f"Paper {number}", abstract=f"Abstract {number}")
        for number in range(1, count + 1)
    )
    return project


def job_context() -> JobContext:
    """One that a page can call outside of a function: that of a task of Django's ImmediateBackend."""
    with override_settings(TASKS=IMMEDIATE):
        _keep_context.enqueue()
    return _contexts.pop()
