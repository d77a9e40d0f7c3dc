"""A project of django-tenants: each tenant has a schema, and our tables have one for all of them."""

import os
from typing import Any

from tests.settings import DATABASES

SECRET_KEY = "for tests only, never for a site"
NAME = os.environ["SAMPLE_DATABASE"]
DATABASES = {"default": {**DATABASES["default"], "ENGINE": "django_tenants.postgresql_backend", "NAME": NAME}}
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
SHARED_APPS = [
    "django_tenants",
    "tests.tenants_project.customers",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "pgonly_django",
]
TENANT_APPS = ["django.contrib.contenttypes", "tests.tenants_project.shop"]
INSTALLED_APPS = list(dict.fromkeys(SHARED_APPS + TENANT_APPS))
TENANT_MODEL, TENANT_DOMAIN_MODEL = "customers.Client", "customers.Domain"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
PGONLY = {"SCHEMA": "job_queue"}
TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend", "QUEUES": []}}
CACHES: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "pgonly_django.cache.PostgresCache",
        "KEY_FUNCTION": "django_tenants.cache.make_key",
    }
}
SESSION_ENGINE = "pgonly_django.sessions"
