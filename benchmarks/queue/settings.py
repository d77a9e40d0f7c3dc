"""The Django project of the benchmark: nothing but the queue, on the database in BENCH_DATABASE_URL."""

import environ

SECRET_KEY = "for benchmarks only"
DATABASES = {"default": environ.Env().db("BENCH_DATABASE_URL")}
TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend", "QUEUES": []}}
INSTALLED_APPS = ["pgonly_django"]
USE_TZ = True
# Django logs each start and end of a task at INFO, and a worker each end, which here nobody reads.
LOGGING = {
    "version": 1,
    "loggers": {
        name: {"level": "WARNING"} for name in ("django.tasks", "django_tasks", "pgonly_django.worker")
    },
}
