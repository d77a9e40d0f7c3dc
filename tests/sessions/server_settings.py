"""Settings of the servers that the tests start: the database and the engine come from the environment."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

DATABASES["default"]["CONN_MAX_AGE"] = None
SESSION_ENGINE = os.environ["SESSION_ENGINE"]
MIDDLEWARE = [
    "pgonly_django.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "tests.sessions.urls"
ALLOWED_HOSTS = ["127.0.0.1"]
