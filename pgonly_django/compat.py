"""What differs between versions of Django and Python, and what a theme of the admin needs. No other module depends on
them. django.tasks came with Django 6.0; on 5.2 its backport django-tasks provides the same names."""

from __future__ import annotations

import atexit
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic

import psycopg
from asgiref.sync import SyncToAsync
from django import VERSION, get_version

if TYPE_CHECKING or VERSION >= (6, 0):
    from django.tasks import task_backends
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
    from django.tasks.exceptions import (
        InvalidTask,
        InvalidTaskBackend,
        TaskResultDoesNotExist,
        TaskResultMismatch,
    )
    from django.tasks.signals import logger as tasks_logger
    from django.tasks.signals import task_enqueued, task_finished, task_started
    from django.utils.json import normalize_json
else:
    try:
        import django_tasks.checks  # registers the check of TASKS, as importing Django's own does
        from django_tasks import task_backends
        from django_tasks.backends.base import BaseTaskBackend
        from django_tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
        from django_tasks.exceptions import InvalidTaskBackendError as InvalidTaskBackend
        from django_tasks.exceptions import InvalidTaskError as InvalidTask
        from django_tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch
        from django_tasks.signals import logger as tasks_logger
        from django_tasks.signals import task_enqueued, task_finished, task_started
        from django_tasks.utils import normalize_json
    except ImportError as error:
        remedy = "Install its backport: pip install 'django-tasks>=0.12'"
        raise ImportError(f"Django 5.2 has no django.tasks. {remedy}") from error

# Type checkers read the first branch. Python has defaults of type parameters from 3.13 on, and Django's classes are
# generic in its stubs alone: when the code runs, GenericTask[P, T] is Task.
if TYPE_CHECKING:
    from typing_extensions import ParamSpec, TypeVar

    P = ParamSpec("P", default=...)
    T = TypeVar("T", default=Any)

    class GenericTask(Task, Generic[P, T]): ...  # type: ignore[type-arg] # also where Django has no stubs

    class GenericTaskResult(TaskResult, Generic[T]):  # type: ignore[type-arg] # likewise
        @property
        def return_value(self) -> T: ...
else:
    from typing import ParamSpec, TypeVar

    P, T = ParamSpec("P"), TypeVar("T")
    GenericTask, GenericTaskResult = {(P, T): Task}, {T: TaskResult}

# The newest versions that this package is tested with. Newer ones are reported, and never refused.
TESTED = {"Python": (3, 14), "Django": (6, 1), "PostgreSQL": (18,)}

# A hexadecimal digit with its first two bits set to those of the variant.
UUID_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def knows_pipelines() -> bool:
    """Returns whether psycopg's pipelines have the private method that database/connect.py overrides."""
    return psycopg.__version__.split(".")[:2] in (["3", "2"], ["3", "3"])


def newer_than_tested(**versions: str) -> Iterator[dict[str, Any]]:
    """Yields the name of what is newer than TESTED has it, its version, and the newest that was tested. Without
    `versions` it looks at Python and Django, as they run here."""
    for name, version in (versions or {"Python": platform.python_version(), "Django": get_version()}).items():
        tested = TESTED[name]
        if tuple(map(int, re.findall(r"\d+", version)))[: len(tested)] > tested:
            yield {"name": name, "version": version, "tested": ".".join(map(str, tested))}


def call_before_threads_are_joined(function: Callable[[], object]) -> None:
    """Calls the function at the end of the process, before Python waits for the threads of pools, and also in a child
    of multiprocessing, which runs no atexit functions before Python 3.13. The latest is called first."""
    getattr(threading, "_register_atexit", atexit.register)(function)


def model_admin_class() -> type[Any]:
    """Returns the class that our admins extend: that of django-unfold where it is installed, as its templates need."""
    from django.apps import apps
    from django.contrib import admin

    theme = import_module("unfold.admin") if apps.is_installed("unfold") else admin
    found: type[Any] = theme.ModelAdmin
    return found


def release_request_thread(last: Callable[[], None]) -> None:
    """Ends the thread that asgiref keeps for sync middleware until the response of an ASGI request is sent, after a
    last call there. Later sync code gets another thread."""
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is not None and getattr(context, "_executor", None) is None:  # else the caller owns it
        executor = SyncToAsync.context_to_thread_executor.pop(context, None)
        if executor is not None:
            executor.submit(last)
            executor.shutdown(wait=False)


def uuid7() -> uuid.UUID:
    """Returns one of new_ids(). Python has a uuid7() from 3.14 on."""
    return uuid.UUID(new_ids(1)[0])


def new_ids(count: int) -> list[str]:
    """Returns `count` ascending UUIDs of version 7 (RFC 9562) as text: 60 bits of time and 62 random bits. A
    millisecond has 2**12 steps, as in PostgreSQL's own uuidv7(); a batch counts on from the present step."""
    first = (time.time_ns() << 12) // 1_000_000
    random = os.urandom(8 * count).hex()
    ids = []
    for place in range(count):
        step, at = f"{first + place:015x}", 16 * place
        variant = UUID_VARIANT[random[at]]
        ids.append(
            f"{step[:8]}-{step[8:12]}-7{step[12:]}-{variant}{random[at + 1 : at + 4]}-{random[at + 4 : at + 16]}"
        )
    return ids
