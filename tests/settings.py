from pathlib import Path
from typing import Any

import environ

from tests import in_memory, in_schema
from tests.waiting import PATIENT

env = environ.Env()
ROOT = Path(__file__).resolve().parent.parent  # as the example has it

SECRET_KEY = "for tests only, never for a site"
DATABASES = {"default": env.db("DATABASE_URL") if env("DATABASE_URL", default="") else in_memory.database()}
HAS_OWN_DATABASE = False  # as the example has it: `manage.py demo` fills only its own
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "pgonly_django",
    "example_project.screening",
]
SCREENING_REVIEWERS = ["points", "pico"]
SCREENING_DELAY_SECONDS = 0
SCREENING_REUSE_ANSWERS = False
SCREENING_BUDGET_USD = "5"
SCREENING_USD_PER_MILLION_IN, SCREENING_USD_PER_MILLION_OUT = 3.0, 15.0
SCREENING_BUSY_PAPER, SCREENING_BUSY_SECONDS = 0, 0.3
CACHES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "answers": {
        "BACKEND": "pgonly_django.cache.PostgresCache",
        "LOCATION": "answers",
        "OPTIONS": PATIENT | {"DURABLE": True, "SERIALIZER": "json", "ON_ERROR": "raise"},
    },
}
CHAT_BASE_URL, CHAT_API_KEY = "http://127.0.0.1:9", ""
CHAT_TIMEOUT_SECONDS, CHAT_PATIENCE_SECONDS = 5, 5
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"
USE_TZ = True
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend", "QUEUES": []}}
PGONLY: dict[str, Any] = {"LEASE_SECONDS": env.float("TEST_LEASE_SECONDS", default=60.0)}
if env("TEST_WAKE_URLS", default=""):
    PGONLY["WAKE_URLS"] = env.list("TEST_WAKE_URLS")
# TEST_SCHEMA=job_queue: all tests with our tables in that schema, which no search_path has. See tests/in_schema.py.
if env("TEST_SCHEMA", default=""):
    PGONLY["SCHEMA"] = env("TEST_SCHEMA")
    in_schema.qualify_sql_of_tests()
DATABASES["default"]["CONN_MAX_AGE"] = env.int("TEST_CONN_MAX_AGE", default=0)
