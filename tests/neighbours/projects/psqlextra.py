from tests.neighbours.projects.base import *  # noqa: F403
from tests.neighbours.projects.base import DATABASES, INSTALLED_APPS

INSTALLED_APPS += ["django.contrib.postgres", "psqlextra"]
DATABASES["default"]["ENGINE"] = "psqlextra.backend"
