from __future__ import annotations

import pytest

from pgonly_django.database.pool import _pools as pools
from pgonly_django.limits import declarations
from pgonly_django.limits.renewal import renewal
from pgonly_django.models import Job
from tests.jobs import read_marks
from tests.sql import sql

# A test in both kinds of transaction: the TestCase's, which is rolled back, and real ones.
both = pytest.mark.parametrize(
    "where",
    [
        pytest.param("in a TestCase", marks=pytest.mark.django_db),
        pytest.param("committed", marks=pytest.mark.django_db(transaction=True)),
    ],
)


def states():
    """Of all jobs, in the order in which they were enqueued."""
    return list(Job.objects.order_by("pk").values_list("state", flat=True))


@pytest.fixture
def written():
    """Reads the marks in order, on the test's connection. Needs the database."""
    sql("DELETE FROM tests_mark")
    return read_marks


@pytest.fixture
def declared(settings):
    """Declares limiters: declared(deepseek={"concurrent": 1})."""

    def declare(**limiters):
        settings.PGONLY = {**settings.PGONLY, "LIMITERS": limiters}

    declarations.ROWS.said.clear()
    yield declare
    renewal.forget()
    declarations.ROWS.said.clear()
    for pool in tuple(pools.values()):
        pool.close_idle()
