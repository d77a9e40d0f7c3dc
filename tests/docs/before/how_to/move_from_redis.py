"""Where there is a Redis server, the calls are made to django-redis too, and one of its sessions is found here."""

from django.conf import settings
from django.contrib.sessions.backends.cache import SessionStore as InCache
from django.core.cache import CacheHandler, caches
from django.test import override_settings

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


def the_calls_have_the_same_answers(page):
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


def a_session_moves():
    from pgonly_django.models import Session
    from pgonly_django.sessions import SessionStore

    with redis() as url:
        if url is None:
            return
        entry = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}
        changed = {
            "CACHES": {**settings.CACHES, "old_sessions": entry},
            "SESSION_CACHE_ALIAS": "old_sessions",
        }
        with override_settings(**changed):
            old = InCache()
            old["cart"] = [1, 2]
            old.save()
            assert Session.objects.count() == 0
            moved = SessionStore(old.session_key)
            assert moved["cart"] == [1, 2]
            moved["cart"] = [1, 2, 3]
            moved.save()
            assert Session.objects.active().count() == 1
            assert SessionStore(old.session_key)["cart"] == [1, 2, 3]
            caches["old_sessions"].close()


def after(page):
    the_calls_have_the_same_answers(page)
    a_session_moves()
