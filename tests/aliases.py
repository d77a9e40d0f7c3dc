"""Other places on the test database's server: aliases, and databases of a test's own."""

from __future__ import annotations

import contextlib
import os

from django.db import connections
from psycopg.sql import SQL, Identifier

from pgonly_django.database.connect import connect


@contextlib.contextmanager
def alias(name, **changes):
    """`name` in DATABASES, with the settings of "default" but for `changes`, until the end of the block."""
    connections.settings[name] = {**connections.settings["default"], **changes}
    try:
        yield
    finally:
        del connections.settings[name]
        if hasattr(connections._connections, name):
            connections[name].close()
            del connections[name]


@contextlib.contextmanager
def new_database(kind):
    """The name of an empty database, until the end of the block."""
    name = f"test_{kind}_{os.getpid()}"
    with connect("default", application_name="pgonly tests") as server:
        server.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        try:
            yield name
        finally:
            server.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))
