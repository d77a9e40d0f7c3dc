"""Another alias of the test database's server."""

from __future__ import annotations

import contextlib

from django.db import connections


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
