"""Settings of a project that has this package alone, and no TASKS."""

import os

from tests.settings import DATABASES as OF_TESTS
from tests.settings import PGONLY  # noqa: F401 - where the tables are

SECRET_KEY = "x"
INSTALLED_APPS = ["pgonly_django"]
USE_TZ = True
DATABASES = {"default": {**OF_TESTS["default"], "NAME": os.environ["TEST_DATABASE"]}}
