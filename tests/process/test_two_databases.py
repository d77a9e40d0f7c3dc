"""The jobs in a database of their own: what docs/how-to/queue.md shows, run as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg
import pytest
from django.db import connection

from pgonly_django.database.connect import connect
from tests.plans.found import OF_THE_QUEUE
from tests.process.conftest import ROOT, database_url
from tests.snippets import snippet

pytestmark = pytest.mark.process

SETTINGS = """
import environ
from tests.settings import *

env = environ.Env()
DATABASES = {"default": env.db("DATABASE_URL"), "jobs": env.db("JOBS_URL")}
"""
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname IN ('public', 'job_queue')"


@pytest.fixture
def urls(transactional_db):
    """Of two empty databases on the tests' server."""
    names = [f"test_{kind}_{os.getpid()}" for kind in ("site", "jobs")]
    with connect("default", application_name="two databases") as server:
        for name in names:
            server.execute(f"CREATE DATABASE {name}")
        yield [database_url({**connection.settings_dict, "NAME": name}) for name in names]
        for name in names:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def manage(urls, tmp_path):
    """Runs a command of a site with the settings and the router of the docs."""
    site = tmp_path / "mysite"
    site.mkdir()
    (site / "__init__.py").touch()
    (site / "settings.py").write_text(SETTINGS + snippet("how-to/queue.md", "mysite.routers.JobsRouter"))
    (site / "routers.py").write_text(snippet("how-to/queue.md", "class JobsRouter"))
    place = {"DJANGO_SETTINGS_MODULE": "mysite.settings", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    environment = {**os.environ, **place, "DATABASE_URL": urls[0], "JOBS_URL": urls[1]}

    def run(*arguments):
        command = [sys.executable, "-m", "django", *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def tables(url):
    with psycopg.connect(url) as server:
        return {name for (name,) in server.execute(TABLES)}


def test_each_database_gets_its_own_tables_and_jobs_run(urls, manage):
    site, jobs = urls
    manage("migrate", "--database", "jobs", "--verbosity", "0")
    manage("migrate", "--verbosity", "0")
    assert tables(jobs) == OF_THE_QUEUE | {"django_migrations"}
    assert tables(site) & OF_THE_QUEUE == set()
    assert {"pgonly_cache", "pgonly_session", "auth_user"} <= tables(site)
    assert "no issues" in manage("check")
    manage("shell", "-c", "from tests.jobs import add; add.enqueue(1, 2)")
    assert "Stopped after 1 job(s)." in manage("runworker", "--burst")
    with psycopg.connect(jobs) as server:
        assert server.execute("SELECT state, result FROM pgonly_job").fetchall() == [("succeeded", 3)]
