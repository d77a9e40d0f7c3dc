"""django-tenants: with PGONLY["SCHEMA"] all tenants share one queue, one cache and one table of sessions."""

from __future__ import annotations

import pytest

from tests import zygote
from tests.aliases import new_database
from tests.children import environment

pytestmark = pytest.mark.slow


@pytest.fixture
def database(transactional_db):
    with new_database("tenants") as name:
        yield name


@pytest.mark.process
def test_all_tenants_share_one_queue_cache_and_table_of_sessions(database):
    pytest.importorskip("django_tenants")
    project = "tests.tenants_project"
    env = environment(f"{project}.settings", SAMPLE_DATABASE=database)
    env.pop("TEST_SCHEMA", None)
    done = zygote.run(["-m", f"{project}.work_for_two_tenants"], env=env)
    assert done.returncode == 0, done.stderr[-6000:]
    assert done.stdout.endswith('{"jobs": 2}\n')
