"""README's settings on the SQLite of a new project: every command says what to change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.servers import free_port
from tests import zygote

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
APP = """
INSTALLED_APPS = [*INSTALLED_APPS, "pgonly_django"]
"""
QUEUE_AND_SESSIONS = """
TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend"}}
SESSION_ENGINE = "pgonly_django.sessions"
"""
CACHE = """
CACHES = {"default": {"BACKEND": "pgonly_django.cache.PostgresCache"}}
"""
REMEDY = "Make DATABASES['default'] a PostgreSQL database (ENGINE \"django.db.backends.postgresql\")"


class Project:
    """What startproject makes, with `settings` at the end of its own."""

    def __init__(self, folder, settings):
        self.folder = folder
        self.run("-m", "django", "startproject", "site_on_sqlite", ".")
        with (folder / "site_on_sqlite" / "settings.py").open("a") as file:
            file.write(settings)

    def run(self, *command):
        """Its exit code and all that it printed."""
        settings = {"DJANGO_SETTINGS_MODULE": "site_on_sqlite.settings", "PYTHONPATH": str(ROOT)}
        environment = {**os.environ, **settings}
        done = zygote.run(list(command), cwd=self.folder, env=environment)
        return done.returncode, done.stdout + done.stderr

    def manage(self, *arguments):
        return self.run("manage.py", *arguments)


@pytest.mark.parametrize(
    "command", [["check"], ["migrate"], ["runserver", "--noreload", f"127.0.0.1:{free_port()}"]]
)
def test_the_checks_name_the_setting_to_change(tmp_path, command):
    code, output = Project(tmp_path, APP + QUEUE_AND_SESSIONS + CACHE).manage(*command)
    assert code == 1
    assert "Traceback" not in output
    for found in ("E003) TASKS['default']", "E102) CACHES['default']", "E201) Sessions"):
        assert f"?: (pgonly_django.{found}" in output
    assert output.count(REMEDY) == 3


@pytest.mark.parametrize("settings", [APP, APP + QUEUE_AND_SESSIONS, APP + CACHE])
def test_the_tables_are_refused_in_one_line(tmp_path, settings):
    code, output = Project(tmp_path, settings).manage("migrate", "--skip-checks")
    assert code == 1
    assert "Traceback" not in output
    assert "CommandError: pgonly_django keeps its tables in PostgreSQL" in output


def test_a_worker_is_refused_in_one_line(tmp_path):
    code, output = Project(tmp_path, APP + QUEUE_AND_SESSIONS).manage("runworker", "--burst")
    assert code == 1
    assert output.splitlines()[-1].startswith("CommandError: DATABASES['default'] is sqlite")
    assert "Traceback" not in output


def test_an_option_that_does_not_exist_is_an_error_of_the_check(tmp_path):
    wrong = QUEUE_AND_SESSIONS + 'TASKS["default"]["OPTIONS"] = {"max_atempts": 2}\n'
    project = Project(tmp_path, APP + wrong)
    with (tmp_path / "site_on_sqlite" / "urls.py").open("a") as urls:
        urls.write("import tests.tasks.calls\n")  # as views import the tasks that they enqueue
    code, output = project.manage("check")
    assert code == 1
    assert "(pgonly_django.E002)" in output
    assert "Did you mean 'max_attempts'?" in output
    assert "Traceback" not in output
