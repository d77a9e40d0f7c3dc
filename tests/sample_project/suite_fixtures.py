"""The fixtures of pgonly_django.testing. pytest runs them (tests/database/test_testrun.py)."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from pgonly_django import limiter
from tests.sample_project.tasks import count_up, do_nothing


def test_without_the_mark_the_fakes_need_no_database(pgonly_fake_limits, settings):
    settings.PGONLY = {**settings.PGONLY, "LIMITERS": {"api": {}}}
    with limiter("api", tokens=5):
        pass
    assert pgonly_fake_limits.tokens("api") == 5


def test_drain_has_the_database_with_it(pgonly_drain):
    count_up.enqueue("counted", 2)
    assert [result.return_value for result in pgonly_drain()] == [2]
    assert connection.in_atomic_block


@pytest.mark.django_db(transaction=True)
def test_it_goes_with_the_mark_of_the_test(pgonly_drain):
    count_up.enqueue("counted", 2)
    assert [result.return_value for result in pgonly_drain()] == [2]
    assert not connection.in_atomic_block


def test_time_travel_lasts_until_the_end_of_the_test(pgonly_drain, pgonly_time_travel):
    do_nothing.using(run_after=timezone.now() + timedelta(days=2)).enqueue()
    for _ in range(2):
        assert pgonly_drain() == []
        pgonly_time_travel(timedelta(days=1))
    assert len(pgonly_drain()) == 1


def test_the_plugin_was_found_by_its_entry_point(request):
    assert (
        request.config.pluginmanager.get_plugin("pgonly_django")
        is sys.modules["pgonly_django.testing.pytest_plugin"]
    )
