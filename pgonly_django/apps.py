from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.db.backends.signals import connection_created


class PgonlyConfig(AppConfig):
    name = "pgonly_django"
    verbose_name = "PostgreSQL only"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from pgonly_django.cache.checks import check_caches, check_pools
        from pgonly_django.conf import check_settings
        from pgonly_django.database import testrun
        from pgonly_django.scheduling.settings import check_schedules
        from pgonly_django.sessions.checks import check_sessions
        from pgonly_django.tasks.dead_letters import check_dead_letter_tasks

        checks.register(check_settings)
        checks.register(check_schedules)
        checks.register(check_dead_letter_tasks)
        checks.register(check_sessions)
        checks.register(check_caches, checks.Tags.caches)
        checks.register(check_pools, checks.Tags.database)
        testrun.remember_names()
        connection_created.connect(testrun.remember_connection, dispatch_uid=testrun.__name__)
