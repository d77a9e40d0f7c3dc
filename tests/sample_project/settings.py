"""A project with caches, sessions and jobs in two databases, and with data in both."""

import os
from typing import Any

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

NAME = os.environ["SAMPLE_DATABASE"]
DATABASES = {
    "default": {**DATABASES["default"], "NAME": NAME},
    "other": {**DATABASES["default"], "NAME": f"{NAME}_other"},
}
OURS = "pgonly_django.cache.PostgresCache"
CACHES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": OURS},
    "ignoring": {"BACKEND": OURS, "LOCATION": "ignoring", "OPTIONS": {"ON_ERROR": "ignore"}},
    "durable": {"BACKEND": OURS, "OPTIONS": {"DURABLE": True}},
    "other": {"BACKEND": OURS, "OPTIONS": {"DATABASE": "other"}},
}
SESSION_ENGINE = "pgonly_django.sessions"
ROOT_URLCONF = "tests.sample_project.urls"
TASKS = {
    "default": {"BACKEND": "pgonly_django.tasks.PostgresBackend", "QUEUES": []},
    "other": {
        "BACKEND": "pgonly_django.tasks.PostgresBackend",
        "QUEUES": [],
        "OPTIONS": {"database": "other"},
    },
}
