"""Jobs and cache in databases of their own: what docs/how-to/databases.md show, run as it stands
there."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from tests import zygote
from tests.aliases import new_database
from tests.children import ROOT, database_url, environment
from tests.docs.pages import snippet
from tests.plans.found import OF_THE_QUEUE

pytestmark = [pytest.mark.process, pytest.mark.slow]

SETTINGS = """
import environ
from tests.settings import *

env = environ.Env()
DATABASE, JOBS_DATABASE, CACHE_DATABASE = (env.db(name) for name in ("DATABASE_URL", "JOBS_URL", "CACHE_URL"))
DATABASES = {"default": DATABASE, "jobs": JOBS_DATABASE}
SILENCED_SYSTEM_CHECKS = ["pgonly_django.I060"]  # with versions that are newer than tested
"""
OF_THE_CACHE = {"pgonly_cache", "pgonly_cache_durable", "pgonly_cache_usage", "pgonly_cache_lock"}
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname IN ('public', 'job_queue')"


@pytest.fixture
def urls(transactional_db):
    """Of three empty databases on the tests' server."""
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(new_database(kind)) for kind in ("site", "jobs", "cache")]
        yield [database_url(NAME=name) for name in names]


@pytest.fixture
def manage(request, urls, tmp_path):
    """Runs a command of a site with the settings and the router of a page."""
    page, words_of_settings, words_of_router = request.param
    site = tmp_path / "mysite"
    site.mkdir()
    (site / "__init__.py").touch()
    (site / "settings.py").write_text(SETTINGS + snippet(page, words_of_settings))
    (site / "routers.py").write_text(snippet(page, words_of_router))
    named = dict(zip(("DATABASE_URL", "JOBS_URL", "CACHE_URL"), urls, strict=True))

    def run(*arguments):
        env = environment("mysite.settings", PYTHONPATH=f"{tmp_path}:{ROOT}", **named)
        done = zygote.run(["-m", "django", *arguments], env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def tables(url):
    with psycopg.connect(url) as server:
        return {name for (name,) in server.execute(TABLES)}


two = ("how-to/databases.md", "mysite.routers.JobsRouter", "class JobsRouter")
three = ("how-to/databases.md", "mysite.routers.PgonlyRouter", "class PgonlyRouter")


@pytest.mark.parametrize(("manage", "has_cache"), [(two, False), (three, True)], indirect=["manage"])
def test_each_database_gets_its_own_tables_and_jobs_run(urls, manage, has_cache):
    site, jobs, cache = urls
    for alias in ("jobs", "cache", "default") if has_cache else ("jobs", "default"):
        manage("migrate", "--database", alias, "--verbosity", "0")
        manage("check", "--database", alias, "--fail-level", "INFO")
    assert tables(jobs) == OF_THE_QUEUE | {"django_migrations"}
    assert {"pgonly_session", "auth_user"} <= tables(site)
    assert tables(site) & (OF_THE_QUEUE | OF_THE_CACHE) == (set() if has_cache else OF_THE_CACHE)
    code = "from django.core.cache import cache; from tests.jobs import add; cache.set('a', 1); add.enqueue(1, 2)"
    manage("shell", "-c", code)
    assert "Stopped after 1 job(s)." in manage("runworker", "--burst")
    with psycopg.connect(jobs) as server:
        assert server.execute("SELECT state, result FROM pgonly_job").fetchall() == [("succeeded", 3)]
    if has_cache:
        assert tables(cache) == OF_THE_CACHE | {"django_migrations"}
        with psycopg.connect(cache) as server:
            assert server.execute("SELECT count(*) FROM pgonly_cache").fetchone() == (1,)
