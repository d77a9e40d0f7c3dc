"""The example's settings. Everything that differs between machines comes from the environment."""

from pathlib import Path
from typing import Any

import django
import environ
from django.core.exceptions import ImproperlyConfigured

from pgonly_django import embedded

env = environ.Env()
ROOT = Path(__file__).resolve().parent.parent
environ.Env.read_env(ROOT / ".env")


def chosen(variable: str, kinds: dict[str, Any]) -> Any:
    """The value in `kinds` that the environment variable names; the first one where it is not set."""
    name = env(variable, default=next(iter(kinds)))
    if name not in kinds:
        raise ImproperlyConfigured(f"{variable} must be one of {', '.join(kinds)}, got {name!r}.")
    return kinds[name]


DEBUG = env.bool("DEBUG", default=True)
SECRET_KEY = env("SECRET_KEY", default="only for the example on your own machine")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1"])

DATABASES = {
    "default": env.db("DATABASE_URL")
    if env("DATABASE_URL", default="")
    else embedded.database(ROOT / ".postgres")
}

# Without DATABASE_URL the database is the example's own, and `manage.py demo` may fill it.
HAS_OWN_DATABASE = not env("DATABASE_URL", default="")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "example_project.screening",  # before the package, whose page of devices it puts into its own layout
    "pgonly_django",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "pgonly_django.middleware.SessionMiddleware",  # Django's, which also writes down from where a session is used
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
TASKS_BACKEND = chosen(
    "TASKS_BACKEND",
    {
        "postgres": "pgonly_django.tasks.PostgresBackend",
        "immediate": "django.tasks.backends.immediate.ImmediateBackend"
        if django.VERSION >= (6, 0)
        else "django_tasks.backends.immediate.ImmediateBackend",
    },
)
TASKS = {"default": {"BACKEND": TASKS_BACKEND, "QUEUES": []}}
# The two caches. In "default" are parts of pages: they work without it, so its errors are ignored. In "answers" are the
# reviewers' answers, which cost money: a logged table survives a crash, a job that cannot read it runs again later
# instead of paying again, and the admin can show JSON. With "memory" each process keeps them for itself, until it ends.
POSTGRES_CACHE = "pgonly_django.cache.PostgresCache"
MEMORY_CACHE = "django.core.cache.backends.locmem.LocMemCache"
CACHES = chosen(
    "CACHE_BACKEND",
    {
        "postgres": {
            "default": {"BACKEND": POSTGRES_CACHE, "OPTIONS": {"ON_ERROR": "ignore"}},
            "answers": {
                "BACKEND": POSTGRES_CACHE,
                "LOCATION": "answers",
                "TIMEOUT": None,
                "OPTIONS": {
                    "DURABLE": True,
                    "SERIALIZER": "json",
                    "ON_ERROR": "raise",
                    "TIMEOUT_SECONDS": 5,
                },
            },
        },
        "memory": {
            "default": {"BACKEND": MEMORY_CACHE},
            "answers": {"BACKEND": MEMORY_CACHE, "LOCATION": "answers", "TIMEOUT": None},
        },
    },
)
# "cache" keeps sessions in the cache "default", "cookies" in the browser, "django" in Django's own table.
SESSION_ENGINE = chosen(
    "SESSION_ENGINE",
    {
        "postgres": "pgonly_django.sessions",
        "django": "django.contrib.sessions.backends.db",
        "cache": "django.contrib.sessions.backends.cache",
        "cookies": "django.contrib.sessions.backends.signed_cookies",
    },
)
if SESSION_ENGINE == "django.contrib.sessions.backends.db":
    INSTALLED_APPS.append("django.contrib.sessions")

# The two reviewers: "points", "pico", or "chat:MODEL" for a model behind an OpenAI-compatible API.
SCREENING_REVIEWERS = env.list("SCREENING_REVIEWERS", default=["points", "pico"])
# What all workers together may ask of each reviewer. The admin changes it without a restart.
REVIEWER_LIMITS = {
    "concurrent": env.int("SCREENING_CONCURRENT", default=5),
    "requests_per_minute": env.int("SCREENING_REQUESTS_PER_MINUTE", default=None),
    "tokens_per_minute": env.int("SCREENING_TOKENS_PER_MINUTE", default=None),
}
PGONLY = {
    "LEASE_SECONDS": env.float("PGONLY_LEASE_SECONDS", default=60),
    "LIMITERS": {
        **dict.fromkeys(["points", "pico", *SCREENING_REVIEWERS], REVIEWER_LIMITS),
        "translator": {"concurrent": 3, "requests_per_minute": 120},  # of the seeded demo
    },
    "BUDGETS": {"translations": {"usd": 0.4}, "assistant": {"usd": 5, "per": "day"}},  # of the seeded demo
}
# What a new project may cost, and the prices of a million tokens. The offline reviewers pretend to cost the same.
SCREENING_BUDGET_USD = env("SCREENING_BUDGET_USD", default="5")
SCREENING_USD_PER_MILLION_IN = env.float("SCREENING_USD_PER_MILLION_IN", default=0.27)
SCREENING_USD_PER_MILLION_OUT = env.float("SCREENING_USD_PER_MILLION_OUT", default=1.10)
# For the demo: the first reviewer pretends to be overloaded when it is first asked about the paper with this key.
SCREENING_BUSY_PAPER = env.int("SCREENING_BUSY_PAPER", default=0)
SCREENING_BUSY_SECONDS = env.float("SCREENING_BUSY_SECONDS", default=3)
# Whether a reviewer's answer on the same paper is reused in later projects instead of being paid for again.
SCREENING_REUSE_ANSWERS = env.bool("SCREENING_REUSE_ANSWERS", default=True)
# Added to every call, so that a demo can be watched.
SCREENING_DELAY_SECONDS = env.float("SCREENING_DELAY_SECONDS", default=0)
CHAT_BASE_URL = env("CHAT_BASE_URL", default="https://api.deepseek.com")
CHAT_API_KEY = env("CHAT_API_KEY", default="")
CHAT_TIMEOUT_SECONDS = env.float("CHAT_TIMEOUT_SECONDS", default=60)
# How long a job waits for one answer before it raises Retry.
CHAT_PATIENCE_SECONDS = env.float("CHAT_PATIENCE_SECONDS", default=60)
