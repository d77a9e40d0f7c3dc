"""The databases of a project that has three, django_tenants without its database backend, and a tenant whose uploads
are imported."""

import contextlib
from types import SimpleNamespace

from django.conf import settings
from django.core.cache import cache
from django.db import connection, connections, models
from django.test import override_settings

from example_project.screening.models import Paper
from pgonly_django.models import CacheEntry, CostEntry, Job, Session
from pgonly_django.testing import drain
from tests.docs.assumed import project_module, this_page_is

DATABASE = JOBS_DATABASE = CACHE_DATABASE = connections.settings["default"]
entered = []
in_one_database = override_settings(TASKS=settings.TASKS, DATABASE_ROUTERS=[])
this_page_is("mysite.routers", __name__)


class PgonlyRouter:
    """Until the page has made its own."""

    def db_for_read(self, model, **hints):
        return "jobs" if model is Job else "cache" if model is CacheEntry else None

    db_for_write = db_for_read


@contextlib.contextmanager
def enter(schema_name):
    entered.append(schema_name)
    yield


project_module("django_tenants.utils", schema_context=enter)


class Row(models.Model):
    tenant = models.IntegerField()
    upload = models.IntegerField()
    text = models.TextField()

    class Meta:
        app_label = "docs_databases"


with connection.schema_editor() as editor:
    editor.create_model(Row)
Row.objects.bulk_create(Row(tenant=7, upload=1, text=str(number)) for number in range(3))
acme = SimpleNamespace(pk=7, slug="acme")
project_module("shop.tenants", key_with_tenant=lambda key, prefix, version: f"acme:{prefix}:{version}:{key}")


def read(text):
    return text


def after(page):
    router = page.PgonlyRouter()
    assert [router.db_for_read(model) for model in (Job, CacheEntry, Session)] == ["jobs", "cache", "default"]
    assert page.OnThePrimary().db_for_read(Session) == "default"
    router = page.JobsRouter()
    assert router.db_for_read(Job) == "jobs"
    assert router.db_for_write(Paper) is None
    page.send_invoice.func("a_tenant", 1)
    assert entered == ["a_tenant"]
    with in_one_database:
        jobs_of_a_tenant(page)


def jobs_of_a_tenant(page):
    upload = SimpleNamespace(pk=1)
    first = page.start(acme, upload)
    assert page.start(acme, upload).is_duplicate
    assert [job.pk for job in page.jobs_of(acme)] == [first.job.pk]
    drain()
    assert first.job.concurrency_key == "tenant:7"
    assert CostEntry.objects.count() == 3
    cache.set("page", "html", tags=["tenant:7"])
    page.forget(acme)
    assert not Job.objects.exists()
    assert cache.get("page") is None
