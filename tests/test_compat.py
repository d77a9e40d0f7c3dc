from __future__ import annotations

import time
from uuid import UUID

import pytest

from pgonly_django.compat import TESTED, new_ids, newer_than_tested
from tests.sql import value


def test_ids_of_a_batch_are_ascending_and_unique():
    ids = new_ids(50_000)
    assert ids == sorted(ids)
    assert len(set(ids)) == 50_000


def test_ids_are_uuids_of_version_seven_that_tell_their_time():
    before = time.time_ns() // 1_000_000
    values = [UUID(text) for text in new_ids(100)]
    after = time.time_ns() // 1_000_000 + 1
    assert {(value.version, value.variant) for value in values} == {(7, "specified in RFC 4122")}
    assert all(before <= value.int >> 80 <= after for value in values)


def test_two_processes_at_one_moment_differ(monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
    assert len({*new_ids(1000), *new_ids(1000)}) == 2000


@pytest.mark.django_db
def test_the_database_sorts_them_as_text_does():
    ids = new_ids(1000)
    assert (
        value("SELECT array_agg(id ORDER BY id)::text[] FROM unnest(%s::uuid[]) AS i(id)", ids[::-1]) == ids
    )


@pytest.mark.parametrize(
    ("name", "version", "is_newer"),
    [
        ("Python", "3.14.9", False),
        ("Python", "3.15.0a2", True),
        ("Django", "6.1.30", False),
        ("Django", "6.2a1", True),
        ("Django", "7.0.dev20261201", True),
        ("PostgreSQL", "18.10", False),
        ("PostgreSQL", "19beta1", True),
        ("PostgreSQL", "15.12-YB-2025.2.3.0-b1", False),
    ],
)
def test_a_version_is_newer_than_tested_by_its_series(name, version, is_newer):
    newer = {"name": name, "version": version, "tested": ".".join(map(str, TESTED[name]))}
    assert list(newer_than_tested(**{name: version})) == ([newer] if is_newer else [])
