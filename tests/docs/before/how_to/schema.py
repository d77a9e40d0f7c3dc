"""django_tenants, without its database backend."""

import contextlib

from tests.docs.assumed import project_module

entered = []


@contextlib.contextmanager
def enter(schema_name):
    entered.append(schema_name)
    yield


project_module("django_tenants.utils", schema_context=enter)


def after(page):
    page.send_invoice.func("a_tenant", 1)
    assert entered == ["a_tenant"]
