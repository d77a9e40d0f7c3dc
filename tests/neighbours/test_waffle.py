"""django-waffle, which keeps its flags in our cache."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import waffle
from django.core.cache import cache
from django.db import connections, transaction
from waffle.models import Flag, Switch

from tests.neighbours.throttles import request

pytestmark = pytest.mark.slow


def test_a_flag_is_cached_and_a_change_is_seen_at_once(transactional_db, django_assert_num_queries):
    assert not waffle.switch_is_active("new")
    switch = Switch.objects.create(name="new", active=True)
    assert waffle.switch_is_active("new")
    with django_assert_num_queries(0):
        assert waffle.switch_is_active("new")
    switch.active = False
    switch.save()
    assert not waffle.switch_is_active("new")
    assert cache.keys("*waffle*")


def test_a_change_in_a_transaction_is_seen_after_the_commit(transactional_db):
    """By others: what they read and cache before the commit is the old flag."""
    flag = Flag.objects.create(name="new", everyone=False)
    everyone = lambda: waffle.flag_is_active(request(), "new")  # noqa: E731 - asked thrice

    def ask():
        try:
            return everyone()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as elsewhere:
        with transaction.atomic():
            flag.everyone = True
            flag.save()
            assert elsewhere.submit(ask).result() is False
        assert (everyone(), elsewhere.submit(ask).result()) == (True, True)
