"""Of the workers that the tests start: without what a worker has no use for, so that one starts in three quarters of
the time."""

from tests.settings import *  # noqa: F403 - the tests' own, but for what follows
from tests.settings import DATABASES, PGONLY, env

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "pgonly_django",
]
MIDDLEWARE: list[str] = []
TEMPLATES: list[dict[str, object]] = []
ROOT_URLCONF = __name__
urlpatterns: list[object] = []

# What a test gives them besides: settings in JSON, and the URL of another database by its alias.
DEBUG = env.bool("TEST_DEBUG", default=False)
PGONLY |= env.json("TEST_PGONLY", default={})
DATABASES |= {alias: env.db_url_config(url) for alias, url in env.json("TEST_DATABASES", default={}).items()}
