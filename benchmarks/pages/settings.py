"""Settings of `python -m benchmarks pages`: a site with the admin, our caches and our sessions, as in production."""

from tests.settings import *  # noqa: F403 - the same apps and database

DEBUG = False
DATABASES["default"]["CONN_MAX_AGE"] = None  # noqa: F405 - from tests.settings
SESSION_ENGINE = "pgonly_django.sessions"
CACHES["default"] = {"BACKEND": "pgonly_django.cache.PostgresCache"}  # noqa: F405 - from tests.settings
ALLOWED_HOSTS = ["testserver"]
