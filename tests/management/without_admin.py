"""Settings of a project that has this package alone, and no TASKS."""

from tests.settings import DATABASES, PGONLY  # noqa: F401 - where the tables are

SECRET_KEY = "x"
INSTALLED_APPS = ["pgonly_django"]
USE_TZ = True
