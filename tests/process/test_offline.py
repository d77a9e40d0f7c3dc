"""The commands that need no database: a build machine, an image that is being made."""

from __future__ import annotations

import pytest

from tests import zygote
from tests.children import environment

pytestmark = [pytest.mark.process, pytest.mark.slow]
SITE = """
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS={apps}, TASKS={{"default": {{"BACKEND": "pgonly_django.tasks.PostgresBackend", "QUEUES": []}}}}
)
"""
LITE = """
import django
from django.conf import settings
from django.core.management import call_command

class Away:
    def allow_migrate(self, db, app_label, **hints):
        return app_label != "pgonly_django"

class AwayByModel:
    def allow_migrate(self, db, app_label, model_name=None, **hints):
        return None if model_name is None else app_label != "pgonly_django"

settings.configure(
    INSTALLED_APPS=["pgonly_django"], DATABASE_ROUTERS={routers},
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}},
)
django.setup()
call_command("migrate", verbosity=0)
"""
NOBODY_LISTENS = "postgres://nobody@127.0.0.1:9/nowhere"


def run(*arguments, env=None):
    return zygote.run(list(arguments), env=env)


@pytest.mark.parametrize("command", [["check"], ["makemigrations", "--check", "--dry-run"]])
def test_checks_and_migrations_need_no_server(command):
    done = run("manage.py", *command, env=environment(DATABASE_URL=NOBODY_LISTENS))
    assert done.returncode == 0, done.stderr


def test_a_task_may_be_defined_before_the_apps_are_loaded():
    done = run("-c", SITE.format(apps=["pgonly_django"]) + "import tests.jobs; django.setup()")
    assert done.returncode == 0, done.stderr


def test_without_the_app_a_task_says_what_to_install():
    done = run("-c", SITE.format(apps=[]) + "django.setup(); import tests.jobs")
    assert done.stderr.splitlines()[-1].endswith(
        'The queue needs "pgonly_django" in INSTALLED_APPS; then run migrate.'
    )


def test_another_kind_of_database_is_named_by_the_first_migration():
    done = run("-c", LITE.format(routers="[]"))
    assert done.returncode == 1
    assert "PostgreSQL, but DATABASES['default'] is django.db.backends.sqlite3. Set" in done.stderr


@pytest.mark.parametrize("router", ["Away()", "AwayByModel()"])
def test_a_database_that_a_router_keeps_the_app_from_may_be_of_any_kind(router):
    done = run("-c", LITE.format(routers=f"[{router}]"))
    assert done.returncode == 0, done.stderr
