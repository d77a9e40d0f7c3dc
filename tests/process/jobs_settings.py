"""A project whose jobs are in a database of their own, as docs/queue.md shows it."""

from tests.settings import *  # noqa: F403 - settings of settings
from tests.settings import DATABASES

DATABASES["jobs"] = DATABASES["default"]
DATABASE_ROUTERS = ["tests.process.jobs_settings.JobsRouter"]
TASKS = {
    "default": {
        "BACKEND": "pgonly_django.tasks.PostgresBackend",
        "QUEUES": ["default", "mail", "ai"],
        "OPTIONS": {"database": "jobs"},
    }
}


QUEUE = {"job", "step", "checkpoint", "worker"}


class JobsRouter:
    def db_for_read(self, model, **hints):
        ours = model._meta.app_label == "pgonly_django" and model._meta.model_name in QUEUE
        return "jobs" if ours else None

    db_for_write = db_for_read
