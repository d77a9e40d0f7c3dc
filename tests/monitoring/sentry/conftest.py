"""Sentry with a transport in memory."""

from __future__ import annotations

import pytest
import sentry_sdk
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.transport import Transport

from pgonly_django.monitoring.sentry import PgonlyIntegration

REPLACED = {
    CursorWrapper: ("execute", "executemany"),
    BaseDatabaseWrapper: ("connect", "_commit", "_rollback"),
}


class InMemory(Transport):
    def __init__(self):
        super().__init__()
        self.items = []

    def capture_envelope(self, envelope):
        self.items += envelope.items

    def of(self, kind):
        return [item.payload.json for item in self.items if item.type == kind]

    @property
    def events(self):
        return self.of("event")


@pytest.fixture(scope="package", autouse=True)
def unpatched_database():
    """Sentry replaces these methods at the first init() of a process, and no client takes that back. With TEST_SCHEMA
    the statements of later tests would look as if Sentry had written them: see tests/in_schema.py."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, names in REPLACED.items():
            for name in names:
                patch.setattr(owner, name, getattr(owner, name))
        yield


@pytest.fixture
def start():
    """`start(PgonlyIntegration(), ...)`: a client with these and all that it has by default."""

    def init(*integrations, **options):
        transport = InMemory()
        for scope in (sentry_sdk.get_current_scope(), sentry_sdk.get_isolation_scope()):
            scope.clear()  # of what another test has left
        sentry_sdk.init(
            dsn="http://key@127.0.0.1:9/1", transport=transport, integrations=[DjangoIntegration(), *integrations],
            auto_enabling_integrations=False, **options,
        )  # fmt: skip
        return transport

    yield init
    sentry_sdk.get_global_scope().set_client(None)


@pytest.fixture
def sent(start):
    return start(PgonlyIntegration())


def error_of(event):
    (value,) = event["exception"]["values"]
    return value["type"], value["value"]
