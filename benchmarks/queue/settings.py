"""The Django project of a benchmark worker: nothing but the queue, on the database in BENCH_DATABASE_URL."""

import environ

SECRET_KEY = "for benchmarks only"
DATABASE = environ.Env().db("BENCH_DATABASE_URL")
DATABASES = {
    "default": DATABASE,
    # As the docs advise where no pooler in transaction mode is between.
    "prepared": {**DATABASE, "OPTIONS": {"prepare_threshold": 5}},
}
INSTALLED_APPS = ["pgonly_django"]
BACKEND = "pgonly_django.tasks.PostgresBackend"
TASKS = {
    "default": {"BACKEND": BACKEND, "QUEUES": []},
    "prepared": {"BACKEND": BACKEND, "QUEUES": [], "OPTIONS": {"database": "prepared"}},
}
USE_TZ = True
# Django's own receivers of the tasks' signals write a line for each start and end, here as little as in most projects.
LOGGING = {
    "version": 1,
    "loggers": {"django.tasks": {"level": "WARNING"}, "django_tasks": {"level": "WARNING"}},
}
