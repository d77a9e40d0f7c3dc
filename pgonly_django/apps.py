from __future__ import annotations

from django.apps import AppConfig


class PgonlyConfig(AppConfig):
    name = "pgonly_django"
    verbose_name = "PostgreSQL only"
    default_auto_field = "django.db.models.BigAutoField"
