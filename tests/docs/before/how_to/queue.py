"""The papers of a project, and the databases of one that has two."""

from django.conf import settings
from django.db import connections
from django.test import override_settings
from django.utils import timezone

from example_project.screening.models import Paper
from pgonly_django.models import Job
from pgonly_django.testing import drain
from tests.docs.assumed import this_page_is

DATABASE = connections.settings["default"]
DATABASES = {"jobs": DATABASE}
tonight = timezone.now()
pks = [1, 2]
visited = []
in_one_database = override_settings(TASKS=settings.TASKS, DATABASE_ROUTERS=[])
this_page_is("mysite.routers", __name__)


def ask_llm(abstract):
    return abstract


def visit(state):
    visited.append(state["next"])
    return {"next": None if len(visited) > 2 else "next page"}


def after(page):
    router = page.JobsRouter()
    assert router.db_for_read(Job) == "jobs"
    assert router.db_for_write(Paper) is None
    with in_one_database:
        assert Job.objects.filter(task=page.screen_project.module_path, queue="ai").count() >= 4
        page.crawl.enqueue("a page")
        drain()
    assert visited == ["a page", "next page", "next page"]
