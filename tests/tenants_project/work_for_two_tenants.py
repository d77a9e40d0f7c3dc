"""What a site, a worker and an operator do, with the search_path of one tenant and of the other. Fails by an assert."""

from __future__ import annotations

import contextlib
import json

import django
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection, transaction

django.setup()

from django_tenants.utils import schema_context  # noqa: E402

from pgonly_django.models import Job, Session, Step  # noqa: E402
from pgonly_django.sessions import SessionStore  # noqa: E402
from pgonly_django.tables import table  # noqa: E402
from tests.tenants_project.customers.models import Client  # noqa: E402
from tests.tenants_project.shop.models import Invoice  # noqa: E402
from tests.tenants_project.shop.tasks import send  # noqa: E402

TENANTS = ("ada", "grace")


def enqueue_for(tenant):
    """One job with its invoice, and one that is rolled back with its own."""
    with schema_context(tenant), transaction.atomic():
        send.enqueue(tenant, Invoice.objects.create(text="new").pk)
    with contextlib.suppress(ZeroDivisionError), schema_context(tenant), transaction.atomic():
        send.enqueue(tenant, Invoice.objects.create(text="never").pk)
        raise ZeroDivisionError


def look_from(tenant):
    with schema_context(tenant), connection.cursor() as cursor:
        assert list(Job.objects.values_list("state", flat=True)) == ["succeeded", "succeeded"]
        with transaction.atomic():
            assert Step.objects.select_related("job").select_for_update(of=("self", "job")).count() == 0
            assert list(Step.objects.select_related("job").select_for_update(of=("self", "job"))) == []
        assert "pgonly_step_once" in connection.introspection.get_constraints(cursor, table("pgonly_step"))
        assert connection.introspection.get_table_description(cursor, table("pgonly_step"))


call_command("migrate_schemas", "--shared", verbosity=0)
for tenant in TENANTS:
    Client(schema_name=tenant).save(verbosity=0)
    enqueue_for(tenant)
with connection.cursor() as cursor:
    cursor.execute("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename LIKE 'pgonly%'")
    assert cursor.fetchall() == [("job_queue",)]
call_command("runworker", burst=True)
for tenant in TENANTS:
    look_from(tenant)
    with schema_context(tenant):
        assert Invoice.objects.get().text == f"sent by {tenant}"
        cache.set("name", tenant)
for tenant in TENANTS:
    with schema_context(tenant):
        assert cache.get("name") == tenant
with schema_context("ada"):
    session = SessionStore()
    session["name"] = "ada"
    session.save()
with schema_context("grace"):
    assert SessionStore(session.session_key)["name"] == "ada"
    assert Session.objects.count() == 1
print(json.dumps({"jobs": Job.objects.count()}))
