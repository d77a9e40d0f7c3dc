"""django-tenants: with PGONLY["SCHEMA"] all tenants share one queue, one cache and one table of sessions."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest

from pgonly_django.database.connect import connection_params
from tests import zygote

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def database(transactional_db):
    name = f"tenants_{os.getpid()}"
    params = {**connection_params("default", application_name="tests"), "dbname": "postgres"}
    with psycopg.connect(**params, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        yield name
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.process
def test_all_tenants_share_one_queue_cache_and_table_of_sessions(database):
    pytest.importorskip("django_tenants")
    project = "tests.tenants_project"
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": f"{project}.settings", "SAMPLE_DATABASE": database}
    environment.pop("TEST_SCHEMA", None)
    done = zygote.run(["-m", f"{project}.work_for_two_tenants"], env=environment)
    assert done.returncode == 0, done.stderr[-6000:]
    assert done.stdout.endswith('{"jobs": 2}\n')
