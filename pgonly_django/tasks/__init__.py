"""The face towards django.tasks. Nothing here needs loaded apps: TASKS is read while they load."""

from pgonly_django.tasks.backend import PostgresBackend
from pgonly_django.tasks.many import enqueue_many
from pgonly_django.tasks.task import PostgresTask, task

__all__ = ["PostgresBackend", "PostgresTask", "enqueue_many", "task"]
