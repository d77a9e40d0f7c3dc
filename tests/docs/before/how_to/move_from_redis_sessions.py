"""A session of django-redis is found by the settings of the page, where there is a Redis server."""

from django.conf import settings
from django.contrib.sessions.backends.cache import SessionStore as InCache
from django.core.cache import caches
from django.test import override_settings

from benchmarks.servers import redis


def after(page):
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
