"""The settings of the benchmark: only the queue, on the database in BENCH_DATABASE_URL."""

import os

import environ

SECRET_KEY = "for benchmarks only"
DATABASES = {"default": {**environ.Env().db("BENCH_DATABASE_URL"), "CONN_MAX_AGE": 60}}
TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend", "QUEUES": []}}
INSTALLED_APPS = ["pgonly_django"]
USE_TZ = True
# As runworker starts in a new project, or with the lines of jobs turned off.
LOGGING = (
    {"version": 1, "loggers": {"pgonly_django.worker": {"level": "WARNING"}}}
    if os.environ.get("BENCH_LOGS") == "warning"
    else {}
)
