from django_tenants.utils import schema_context

from pgonly_django import task
from tests.tenants_project.shop.models import Invoice


@task()
def send(tenant, invoice):
    with schema_context(tenant):
        Invoice.objects.filter(pk=invoice).update(text=f"sent by {tenant}")
