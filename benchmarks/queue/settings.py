"""The Django project of a benchmark worker: nothing but the queue, on the database in BENCH_DATABASE_URL."""

import environ

SECRET_KEY = "for benchmarks only"
DATABASES = {"default": environ.Env().db("BENCH_DATABASE_URL")}
INSTALLED_APPS = ["pgonly_django"]
TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend", "QUEUES": []}}
USE_TZ = True
# Django's own receivers of the tasks' signals write a line for each start and end, here as little as in most projects.
LOGGING = {
    "version": 1,
    "loggers": {"django.tasks": {"level": "WARNING"}, "django_tasks": {"level": "WARNING"}},
}
