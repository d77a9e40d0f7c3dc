"""The settings of the tests with the theme of django-jazzmin, which replaces the templates of the admin."""

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

INSTALLED_APPS = ["jazzmin", *INSTALLED_APPS]
