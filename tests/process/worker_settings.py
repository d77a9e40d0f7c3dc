"""Of the workers that the tests start: without what a worker has no use for, so that one starts in three quarters of
the time."""

from tests.settings import *  # noqa: F403 - the tests' own, but for what follows

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
