"""A project whose jobs are in a database of their own, as docs/how-to/databases.md shows it."""

from tests.docs.pages import snippet
from tests.process.worker_settings import *  # noqa: F403 - settings of settings
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

# Makes JobsRouter.
exec(snippet("how-to/databases.md", "class JobsRouter"))
