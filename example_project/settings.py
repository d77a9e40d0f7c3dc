"""The example's settings. Everything that differs between machines comes from the environment."""

from pathlib import Path

import django
import environ
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.database import embedded

env = environ.Env()
ROOT = Path(__file__).resolve().parent.parent
environ.Env.read_env(ROOT / ".env")

DEBUG = env.bool("DEBUG", default=True)
SECRET_KEY = env("SECRET_KEY", default="only for the example on your own machine")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1"])

DATABASES = {
    "default": env.db("DATABASE_URL")
    if env("DATABASE_URL", default="")
    else embedded.database(ROOT / ".postgres")
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "pgonly_django",
    "example_project.screening",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "example_project.security.content_security_policy",
]
if env.bool("LOGIN_REQUIRED", default=False):
    MIDDLEWARE.append("django.contrib.auth.middleware.LoginRequiredMiddleware")
LOGIN_URL = "admin:login"
ROOT_URLCONF = "example_project.urls"
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
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"

# The queue. "immediate" runs a job inside enqueue(), in the web process: development without a worker.
TASK_BACKENDS = {
    "postgres": "pgonly_django.tasks.PostgresBackend",
    "immediate": "django.tasks.backends.immediate.ImmediateBackend"
    if django.VERSION >= (6, 0)
    else "django_tasks.backends.immediate.ImmediateBackend",
}
TASKS_BACKEND = env("TASKS_BACKEND", default="postgres")
if TASKS_BACKEND not in TASK_BACKENDS:
    raise ImproperlyConfigured(
        f"TASKS_BACKEND must be one of {', '.join(TASK_BACKENDS)}, got {TASKS_BACKEND!r}."
    )
TASKS = {"default": {"BACKEND": TASK_BACKENDS[TASKS_BACKEND], "QUEUES": []}}
CACHES = {
    # Parts of pages: they work without it, so its errors are ignored.
    "default": {"BACKEND": "pgonly_django.cache.PostgresCache", "OPTIONS": {"ON_ERROR": "ignore"}},
    # The reviewers' answers, which cost money: a logged table survives a crash, and the admin can show JSON.
    "answers": {
        "BACKEND": "pgonly_django.cache.PostgresCache",
        "LOCATION": "answers",
        "TIMEOUT": None,
        "OPTIONS": {"DURABLE": True, "SERIALIZER": "json"},
    },
}
SESSION_ENGINE = "pgonly_django.sessions"
PGONLY = {"LEASE_SECONDS": env.float("PGONLY_LEASE_SECONDS", default=60)}

# The two reviewers: "points", "pico", or "chat:MODEL" for a model behind an OpenAI-compatible API.
SCREENING_REVIEWERS = env.list("SCREENING_REVIEWERS", default=["points", "pico"])
# Whether a reviewer's answer on the same paper is reused in later projects instead of being paid for again.
SCREENING_REUSE_ANSWERS = env.bool("SCREENING_REUSE_ANSWERS", default=True)
# Added to every call, so that a demo can be watched.
SCREENING_DELAY_SECONDS = env.float("SCREENING_DELAY_SECONDS", default=0)
CHAT_BASE_URL = env("CHAT_BASE_URL", default="https://api.deepseek.com")
CHAT_API_KEY = env("CHAT_API_KEY", default="")
CHAT_TIMEOUT_SECONDS = env.float("CHAT_TIMEOUT_SECONDS", default=60)
# How long a job waits for one answer before it raises Retry.
CHAT_PATIENCE_SECONDS = env.float("CHAT_PATIENCE_SECONDS", default=60)
