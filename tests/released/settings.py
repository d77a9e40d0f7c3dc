"""The settings of the processes that tests/process/test_versions.py starts, of every version."""

import environ

env = environ.Env()

SECRET_KEY = "for tests only, never for a site"
DATABASES = {"default": env.db("DATABASE_URL")}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "pgonly_django"]
USE_TZ = True
TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend", "QUEUES": []}}
PGONLY = {"LEASE_SECONDS": 2.0}
if env("TEST_SCHEMA", default=""):
    PGONLY["SCHEMA"] = env("TEST_SCHEMA")
