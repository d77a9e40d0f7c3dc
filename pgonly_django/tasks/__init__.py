"""Django's tasks on this package's queue. Importing it needs no loaded apps: TASKS is read while they load.

task, backend, bulk   @task, enqueue() and enqueue_many()
options, settings     the options of a task, one entry of settings.TASKS, which layer wins, and the system check of both
bound                 calls that are made later, and the job that follows another one
arguments, keys       whether a call fits the function and JSON; what follows from its arguments
metadata              what jobs carry beside their arguments
result, registry      from a row back to a result, and to its task, also by a former path
error_policies        what the options say of a kind of error
failures              `on_failure` and dead letters
batches               jobs with a common end
editing, redrive      a person changes a job, or runs it again
masking               secrets in arguments and results
deploy_checks         further system checks, and whether stored jobs can run with this code
"""

from pgonly_django.tasks.backend import PostgresBackend
from pgonly_django.tasks.bulk import enqueue_many
from pgonly_django.tasks.task import PostgresTask, task

__all__ = ["PostgresBackend", "PostgresTask", "enqueue_many", "task"]
