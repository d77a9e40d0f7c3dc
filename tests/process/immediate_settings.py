"""A project whose tasks run at once, where they are enqueued."""

from pgonly_django.compat import TaskResult
from tests.process.worker_settings import *  # noqa: F403 - settings of settings

TASKS = {
    "default": {"BACKEND": f"{TaskResult.__module__.split('.base')[0]}.backends.immediate.ImmediateBackend"}
}
