from tests.neighbours.projects.base import *  # noqa: F403
from tests.neighbours.projects.base import INSTALLED_APPS, TASKS

INSTALLED_APPS += ["django_tasks_db"]
TASKS["old"] = {"BACKEND": "django_tasks_db.DatabaseBackend"}
