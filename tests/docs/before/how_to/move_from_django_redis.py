"""The same calls are made to django-redis where there is a Redis server."""

from django.core.cache import CacheHandler

from benchmarks.servers import redis


def answers(cache):
    """To the calls of the page, and to those that it names in its text."""
    found = [
        cache.get("report"),
        cache.set("report", "other", nx=True),
        cache.set("missing", "other", xx=True),
        cache.ttl("report"),
        cache.ttl("missing"),
        cache.pttl("missing"),
        cache.expire("report", 60),
        cache.ttl("report"),
        cache.persist("report"),
        cache.ttl("report"),
        cache.pexpire("report", 60_000),
        cache.keys("rep*"),
        list(cache.iter_keys("rep*", itersize=100)),
        cache.delete_many(["nothing"]),
        cache.delete_pattern("rep*", itersize=100),
    ]
    with cache.lock("import", timeout=60, blocking_timeout=5) as lock:
        return [*found, lock.owned(), cache.lock("import", timeout=60).acquire(blocking=False)]


def after(page):
    from django.core.cache import cache

    cache.set("report", "text", timeout=3600)
    here = answers(cache)
    assert here[:4] == ["text", False, False, 3600]
    with redis() as url:
        if url is None:
            return
        entry = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}
        old = CacheHandler({"default": entry})["default"]
        old.set("report", "text", timeout=3600)
        assert answers(old) == here
        old.set("answer:1", {"of": "a model"}, timeout=100)
        old.set("answer:2", "kept", timeout=None)
        old.set("page:1", "other")
        page.copy(old, cache, "answer:*")
        assert (cache.get("answer:1"), cache.get("answer:2")) == ({"of": "a model"}, "kept")
        assert (90 <= cache.ttl("answer:1") <= 100, cache.ttl("answer:2")) == (True, None)
        assert cache.get("page:1") is None
        old.close()
