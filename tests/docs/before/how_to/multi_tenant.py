from types import SimpleNamespace

from django.core.cache import cache
from django.db import connection, models

from pgonly_django.models import CostEntry, Job
from pgonly_django.testing import drain
from tests.docs.assumed import project_module


class Row(models.Model):
    tenant = models.IntegerField()
    upload = models.IntegerField()
    text = models.TextField()

    class Meta:
        app_label = "docs_multi_tenant"


with connection.schema_editor() as editor:
    editor.create_model(Row)
Row.objects.bulk_create(Row(tenant=7, upload=1, text=str(number)) for number in range(3))
acme = SimpleNamespace(pk=7, slug="acme")
project_module("shop.tenants", key_with_tenant=lambda key, prefix, version: f"acme:{prefix}:{version}:{key}")


def read(text):
    return text


def after(page):
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
