"""django-waffle, which keeps its flags in our cache."""

from __future__ import annotations

import pytest
import waffle
from django.core.cache import cache
from waffle.models import Switch

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
