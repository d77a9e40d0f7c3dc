"""The Django project of the benchmark: nothing but the queue, on the database in BENCH_DATABASE_URL."""

import os

import environ

SECRET_KEY = "for benchmarks only"
DATABASE = environ.Env().db("BENCH_DATABASE_URL")
BACKEND = "pgonly_django.tasks.PostgresBackend"
# As the docs advise where no pooler in transaction mode is between.
DATABASES = {"default": {**DATABASE, "OPTIONS": {"prepare_threshold": 5}}}
TASKS = {"default": {"BACKEND": BACKEND, "QUEUES": []}}
if "BENCH_UNTUNED" in os.environ:
    DATABASES["untuned"] = DATABASE
    TASKS["untuned"] = {"BACKEND": BACKEND, "QUEUES": [], "OPTIONS": {"database": "untuned"}}
INSTALLED_APPS = ["pgonly_django"]
USE_TZ = True
# Django logs each start and end of a task at INFO, which here nobody reads.
LOGGING = {
    "version": 1,
    "loggers": {"django.tasks": {"level": "WARNING"}, "django_tasks": {"level": "WARNING"}},
}
