"""django-redis beside our cache, in one process."""

from __future__ import annotations

import pytest
from django.core.cache import caches
from django_redis import get_redis_connection

pytestmark = pytest.mark.slow


@pytest.fixture
def both(redis_url, settings, transactional_db):
    redis = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_url}
    settings.CACHES = {**settings.CACHES, "redis": redis}
    caches["redis"].clear()
    yield caches["default"], caches["redis"]
    caches["redis"].close()


def test_neither_sees_the_entries_of_the_other(both):
    ours, theirs = both
    ours.set("colour", "red")
    theirs.set("colour", "blue")
    assert (ours.get("colour"), theirs.get("colour")) == ("red", "blue")
    ours.clear()
    assert (ours.get("colour"), theirs.get("colour")) == (None, "blue")
    assert get_redis_connection("redis").ping()


def test_what_is_beyond_djangos_api_answers_the_same(both):
    """The calls of a project that moves from one to the other."""

    def answers(cache):
        cache.set("a", 1, timeout=60)
        cache.set_many({"b": 2, "c": "three"})
        with cache.lock("a lock", timeout=5):
            return [
                cache.ttl("a"), cache.ttl("none"), cache.persist("a"), cache.ttl("a"), cache.expire("b", 50),
                cache.ttl("b"), sorted(cache.keys("*")), sorted(cache.iter_keys("[bc]")), cache.incr("a"),
                cache.set("a", 5, nx=True), cache.delete_pattern("[ab]"), cache.get_many(["a", "b", "c"]),
            ]  # fmt: skip

    ours, theirs = map(answers, both)
    ours[6], theirs[6] = ([key for key in keys if key != "a lock"] for keys in (ours[6], theirs[6]))
    assert ours == theirs
