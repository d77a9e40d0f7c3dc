"""Django's tasks on this package's queue. Importing it needs no loaded apps: TASKS is read while they load.

task, backend, bulk   @task, enqueue() and enqueue_many()
task_fields           whether the fields of a task fit their columns
options               max_attempts, backoff, ...: their values
arguments             whether a call fits the function and JSON
call_columns, keys    what follows from the arguments of a call: its keys and their columns
uniqueness            which calls of a task make one job
settings, checks      one entry of settings.TASKS: its defaults, which layer wins, and the system checks of it
result, registry      from a row back to a result and to its task
aliases, discovery    former paths of tasks; the modules in which tasks are declared
stored_jobs           for `check --deploy`: whether stored jobs can run with this code
module_checks         for `check --deploy`: whether modules of tasks can be imported, and aliases are free
signals               whether Django's signals have receivers
"""

from pgonly_django.tasks.backend import PostgresBackend
from pgonly_django.tasks.bulk import enqueue_many
from pgonly_django.tasks.task import PostgresTask, task

__all__ = ["PostgresBackend", "PostgresTask", "enqueue_many", "task"]
