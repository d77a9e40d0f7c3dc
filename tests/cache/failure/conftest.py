"""A database in a server that the tests may stop."""

from __future__ import annotations

import pytest
from django.db import connections

from pgonly_django.cache import PostgresCache
from tests import in_memory


@pytest.fixture(scope="package")
def server():
    with in_memory.new_server(options=("max_connections=20",)) as server:
        yield server


@pytest.fixture
def aside(server, django_db_blocker):
    """The alias "aside": a migrated database in a server that tests may stop."""
    server.start()
    settings = {**connections.settings["default"], "HOST": str(server.socket_directory), "NAME": "postgres"}
    settings |= {"USER": "postgres", "PORT": "", "PASSWORD": ""}
    point_aside_to(settings)
    with django_db_blocker.unblock():
        from django.core.management import call_command

        call_command("migrate", database="aside", verbosity=0)
        cache = with_options()
        cache.clear()
        yield cache
        point_aside_to(settings)
    del connections.settings["aside"]
    from pgonly_django.database import pool

    for key in [key for key in pool._pools if key[0] == "aside"]:
        pool._pools.pop(key).close_idle()


def point_aside_to(settings=None, **changes):
    """The alias has these settings, or those that it has with changes."""
    connections.settings["aside"] = settings or {**connections.settings["aside"], **changes}
    if hasattr(connections._connections, "aside"):
        connections["aside"].close()
        del connections["aside"]


def with_options(**options):
    return PostgresCache("aside", {"OPTIONS": {"DATABASE": "aside", **options}})
