from __future__ import annotations

import pytest

from pgonly_django.postgres import connect


@pytest.fixture
def server(transactional_db):
    """A connection of our own, as a worker has it."""
    with connect("default", application_name="pgonly tests") as connection:
        yield connection


@pytest.fixture
def other(transactional_db):
    """Somebody else's connection, for what is locked or not committed yet."""
    with connect("default", application_name="pgonly tests, another") as connection:
        yield connection
