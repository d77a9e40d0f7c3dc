"""The settings of the benchmark: only the queue, on the database in BENCH_DATABASE_URL."""

import environ

SECRET_KEY = "for benchmarks only"
DATABASES = {"default": environ.Env().db("BENCH_DATABASE_URL")}
TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend", "QUEUES": []}}
INSTALLED_APPS = ["pgonly_django"]
USE_TZ = True
# Django logs the start and the end of each task at INFO, and a worker each end. Here that only costs time.
LOGGING = {
    "version": 1,
    "loggers": {
        name: {"level": "WARNING"} for name in ("django.tasks", "django_tasks", "pgonly_django.worker")
    },
}
