"""What the projects have in common: a test database of their own, which is made without migrations but ours."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS, MIDDLEWARE

DATABASES["default"]["TEST"] = {"NAME": f"test_neighbours_{os.getpid()}"}
INSTALLED_APPS.remove("example_project.screening")
CACHES = {"default": {"BACKEND": "pgonly_django.cache.PostgresCache"}}
SESSION_ENGINE = "pgonly_django.sessions"
MIDDLEWARE[0] = "pgonly_django.middleware.SessionMiddleware"
ALLOWED_HOSTS = ["testserver"]
PGONLY = {}


class OnlyOurs(dict):
    """MIGRATION_MODULES: the tables of all other apps are made from their models."""

    def __contains__(self, label):
        return label != "pgonly_django"

    def __getitem__(self, label):
        return None

    def get(self, label, default=None):
        return None if label in self else default


MIGRATION_MODULES = OnlyOurs()
