from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.db.backends.signals import connection_created
from django.db.models.signals import pre_migrate
from django.utils.translation import gettext_lazy as _


class PgonlyConfig(AppConfig):
    name = "pgonly_django"
    verbose_name = _("Jobs, cache, sessions")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from pgonly_django import neighbours
        from pgonly_django.cache.checks import check_caches, check_pools
        from pgonly_django.conf import check_settings, schema
        from pgonly_django.database import in_schema, listener, placement, server_kind, testrun, wake_urls
        from pgonly_django.embedded import check_embedded
        from pgonly_django.limits.budget_settings import check_budgets
        from pgonly_django.limits.declarations import check_limiters
        from pgonly_django.queue.declared_queues import check_queues
        from pgonly_django.scheduling.settings import check_schedules
        from pgonly_django.sessions.checks import check_sessions
        from pgonly_django.tasks.deploy_checks import (
            check_names_of_queues,
            check_stored_jobs,
            check_task_modules,
        )
        from pgonly_django.tasks.failures import check_dead_letter_tasks, check_on_failure
        from pgonly_django.throttling.counted import check_throttles

        for check in (
            check_settings, listener.check_listen_database, check_queues, check_names_of_queues, check_schedules,
            check_dead_letter_tasks, check_on_failure, check_limiters, check_sessions, check_budgets,
            neighbours.check_cachalot, neighbours.check_cacheops, neighbours.check_usersessions, check_throttles,
        ):  # fmt: skip
            checks.register(check)
        for check in (check_embedded, check_task_modules, check_stored_jobs):
            checks.register(check, deploy=True)
        for check in (check_pools, server_kind.check_server, placement.check_placement):
            checks.register(check, checks.Tags.database)
        checks.register(check_caches, checks.Tags.caches)
        pre_migrate.connect(placement.refuse_elsewhere, sender=self, dispatch_uid=placement.__name__)
        neighbours.leave_our_tables_alone()
        testrun.remember_names()
        wake_urls.remember_usual()
        connection_created.connect(testrun.remember_connection, dispatch_uid=testrun.__name__)
        if schema():
            connection_created.connect(in_schema.extend, dispatch_uid=in_schema.__name__)
