"""Clocks that are off: of this host, of a worker's, and of one that enqueues."""

from __future__ import annotations

import uuid

import pytest

from pgonly_django.compat import new_ids
from pgonly_django.models import Job, Worker
from pgonly_django.monitoring.doctor.findings import Level
from tests.monitoring.doctor.conftest import found
from tests.queue.rows import make, make_worker

HOUR = 3600


def id_of_a_clock(ahead):
    """As a host makes it whose clock is ahead by so many seconds."""
    usual = uuid.UUID(new_ids(1)[0]).int
    return uuid.UUID(int=usual + (int(ahead * 1000) << 80))


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_the_database_is_an_hour_off(own_server, ahead):
    """A clock of the database's own would need another machine: its function is replaced."""
    assert own_server.found("clocks") == {}
    own_server.execute(
        "CREATE SCHEMA IF NOT EXISTS fake",
        "CREATE OR REPLACE FUNCTION fake.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
        f"$$ SELECT pg_catalog.clock_timestamp() - interval '{ahead} s' $$",
        "ALTER ROLE postgres SET search_path = fake, pg_catalog, public",
    )
    finding = own_server.found("clocks")["D071"]
    assert finding.level == Level.ERROR
    assert finding.data["ahead_seconds"] == pytest.approx(ahead, abs=1)
    assert ("ahead of" if ahead > 0 else "behind") in finding.fact


@pytest.mark.django_db
@pytest.mark.parametrize(("ahead", "level"), [(HOUR, Level.ERROR), (-HOUR, Level.ERROR), (10, Level.WARNING)])
def test_the_host_of_a_worker_is_off(ahead, level):
    make_worker(name="right", hostname="right")
    make_worker(id=id_of_a_clock(ahead), name="w7", hostname="node7")
    findings = found("clocks")
    assert list(findings) == ["D072"]
    assert findings["D072"].level == level
    assert findings["D072"].data["hostname"] == "node7"
    assert findings["D072"].data["ahead_seconds"] == pytest.approx(ahead, abs=2)


@pytest.mark.django_db
def test_a_host_that_enqueues_is_off():
    make()
    make(id=id_of_a_clock(HOUR))
    finding = found("clocks")["D073"]
    assert finding.data["jobs"] == 1
    assert finding.data["of"] == 2


@pytest.mark.django_db
def test_rows_without_a_time_in_their_id_and_those_that_came_late_are_no_finding(settings):
    make(id=uuid.uuid4())
    make_worker(id=uuid.uuid4())
    make(id=id_of_a_clock(-30))  # of a long enqueue_many()
    assert found("clocks") == {}
    settings.USE_TZ = False
    assert found("clocks") == {}
    assert Job.objects.count() + Worker.objects.count() == 3
