from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from io import StringIO

import pytest
from django.contrib.sessions.models import Session as OldRow
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from benchmarks.servers import redis
from pgonly_django.exceptions import CacheError
from pgonly_django.models import Session
from pgonly_django.sessions import SessionStore, revoke_all
from pgonly_django.sessions.previous_engine import import_sessions
from tests.sessions.rows import switch_from
from tests.sql import sql

pytestmark = pytest.mark.django_db

BACKENDS = "django.contrib.sessions.backends"
LOCAL_CACHE = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
CACHES = {
    "local": LOCAL_CACHE,
    "table": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "old_cache"},
    "ours": {"BACKEND": "pgonly_django.cache.PostgresCache", "LOCATION": "old"},
    "Django's Redis": {"BACKEND": "django.core.cache.backends.redis.RedisCache"},
    "django-redis": {"BACKEND": "django_redis.cache.RedisCache"},
}
NEEDS = {"Django's Redis": "redis", "django-redis": "django_redis"}
SITE = {"KEY_PREFIX": "site:[1]*", "VERSION": 2}  # what a pattern or a split at colons would trip over


@pytest.fixture(scope="module")
def redis_url():
    with redis() as url:
        if url is None:
            pytest.skip("redis-server is not installed")
        yield url


def use_old_engine(request, settings, engine: str, kind: str = "local", **params) -> None:
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind], reason=f"{NEEDS[kind]} is not installed")
        cache = {**CACHES[kind], "LOCATION": request.getfixturevalue("redis_url")}
    else:
        cache = CACHES[kind]
    settings.CACHES = {"default": LOCAL_CACHE, "old": {**cache, **SITE, **params}}
    settings.SESSION_CACHE_ALIAS = "old"
    settings.PGONLY = {"SESSION_PREVIOUS_ENGINE": f"{BACKENDS}.{engine}"}
    call_command("createcachetable")
    request.addfinalizer(caches["old"].clear)


@pytest.fixture(params=["db", "cached_db", *(f"cache in {kind}" for kind in CACHES)])
def old(request, settings):
    """The name of the old engine."""
    engine, _, kind = request.param.partition(" in ")
    use_old_engine(request, settings, engine, kind or "local")
    return engine


@pytest.fixture(params=CACHES)
def old_cache(request, settings):
    """The cache of the old engine, which is "cache"."""
    use_old_engine(request, settings, "cache", request.param)
    return caches["old"]


def old_store(name: str, key: str | None = None):
    return import_module(f"{BACKENDS}.{name}").SessionStore(key)


def old_sessions(name: str, count: int) -> list[str]:
    keys = []
    for number in range(count):
        session = old_store(name)
        session.update({"number": number, "_auth_user_id": str(number)})
        session.save()
        keys.append(session.session_key)
    return keys


def run(**options) -> str:
    output = StringIO()
    call_command("pgonly_import_sessions", stdout=output, **options)
    return output.getvalue()


def test_every_live_session_is_here_under_its_cookie(old):
    keys = old_sessions(old, 5)
    assert run(batch=2) == "5 moved, 0 were here already\n"
    assert [SessionStore(key)["number"] for key in keys] == [0, 1, 2, 3, 4]
    assert Session.objects.for_key(keys[3]).get().user_id == "3"


def test_a_run_that_was_killed_is_finished_by_the_next(old):
    keys = old_sessions(old, 5)
    next(import_sessions(SessionStore().codec, 2))
    assert Session.objects.count() == 2
    assert run() == "3 moved, 2 were here already\n"
    assert all(SessionStore().exists(key) for key in keys)


def test_the_rows_keep_the_expiry_of_the_old_ones_and_live_a_hundred_years_at_most(settings):
    switch_from(settings, "db")
    soon, never = old_sessions("db", 2)
    OldRow.objects.filter(pk=soon).update(expire_date=timezone.now() + timedelta(minutes=5))
    OldRow.objects.filter(pk=never).update(expire_date="9999-12-31T23:59Z")
    run()
    assert Session.objects.for_key(soon).get().expires_at < timezone.now() + timedelta(minutes=6)
    assert Session.objects.for_key(never).get().expires_at < timezone.now() + timedelta(days=36_501)


class RepeatingCache(LocMemCache):
    """Like Redis, whose SCAN may name a key twice."""

    def iter_keys(self, pattern):
        return [self.reverse_key(name) for name in [*self._cache] * 2]

    def reverse_key(self, name):
        return name.split(":", 2)[2]


@pytest.mark.parametrize("batch", [2, 1000])
def test_a_key_that_is_listed_twice_is_one_session(request, settings, batch):
    cache = {"BACKEND": f"{__name__}.RepeatingCache", "KEY_PREFIX": "site", "LOCATION": "repeating"}
    settings.CACHES = {"default": cache}
    settings.PGONLY = {"SESSION_PREVIOUS_ENGINE": f"{BACKENDS}.cache"}
    request.addfinalizer(caches["default"].clear)
    old_sessions("cache", 3)
    assert run(batch=batch).startswith("3 moved")


def test_what_cannot_be_encoded_here_is_left_out_counted_and_logged_by_its_key(request, settings, caplog):
    use_old_engine(request, settings, "cache")
    (key,) = old_sessions("cache", 1)
    session = old_store("cache", key)
    session["seen"] = timezone.now()
    session.save()
    assert run().strip().endswith("1 values left out that cannot be encoded here")
    assert "'seen'" in caplog.text
    assert dict(SessionStore(key).items()) == {"number": 0, "_auth_user_id": "0"}


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nothing_is_refused(batch):
    with pytest.raises(CommandError, match=f"--batch must be at least 1, got {batch}"):
        run(batch=batch)


def test_what_was_written_or_ended_here_is_not_brought_back(old):
    written, ended, revoked = old_sessions(old, 3)
    session = SessionStore(written)
    session["number"] = "here"
    session.save()
    SessionStore(ended).flush()
    assert SessionStore(revoked)["number"] == 2
    Session.objects.for_key(revoked).revoke()
    assert run().startswith("0 moved")
    assert SessionStore(written)["number"] == "here"
    assert not any(SessionStore().exists(key) for key in (ended, revoked))


def test_a_revoked_users_sessions_are_not_moved(old, django_user_model):
    user = django_user_model.objects.create(pk=1, username="ada")
    kept, revoked = old_sessions(old, 2)
    revoke_all(user)
    assert run() == "1 moved, 1 were here already\n"
    assert SessionStore().exists(kept)
    assert not Session.objects.for_key(revoked).exists()


@pytest.mark.parametrize(
    ("engine", "pgonly", "says"),
    [
        ("pgonly_django.sessions", {}, "Set PGONLY"),
        (f"{BACKENDS}.db", {"SESSION_PREVIOUS_ENGINE": f"{BACKENDS}.db"}, "still serves"),
    ],
)
def test_it_runs_after_the_switch_while_the_previous_engine_is_named(settings, engine, pgonly, says):
    settings.SESSION_ENGINE, settings.PGONLY = engine, pgonly
    with pytest.raises(CommandError, match=says):
        run()


def test_it_runs_where_a_subclass_of_our_store_serves(settings):
    """As projects have it whose sessions have a store of their own."""
    switch_from(settings, "db")
    (key,) = old_sessions("db", 1)
    settings.SESSION_ENGINE = __name__
    assert run() == "1 moved, 0 were here already\n"
    assert SessionStore(key)["number"] == 0


def test_a_cache_that_cannot_list_its_keys_names_the_other_way(settings, tmp_path):
    switch_from(settings, "cache", "django.core.cache.backends.filebased.FileBasedCache")
    settings.CACHES["default"]["LOCATION"] = tmp_path
    with pytest.raises(CommandError, match="SESSION_PREVIOUS_ENGINE"):
        run()


def test_an_expired_session_is_left_behind(settings):
    session = switch_from(settings, "db").SessionStore()
    session["a"] = 1
    session.set_expiry(-10)
    session.save()
    run()
    assert not Session.objects.exists()


def test_what_else_is_in_the_cache_is_left_alone(old_cache):
    old_cache.set("no-session", 1)
    old_sessions("cache", 1)
    assert run().startswith("1 moved")


class FailingCache(LocMemCache):
    """It lists its keys, and then cannot be read."""

    def get(self, *args, **kwargs):
        raise ConnectionError


def test_a_cache_that_fails_while_it_is_read_ends_the_run(request, settings):
    use_old_engine(request, settings, "cache")
    old_sessions("cache", 1)
    failing = {"BACKEND": f"{__name__}.FailingCache", **SITE}
    settings.CACHES = {**settings.CACHES, "old": failing}
    with pytest.raises(ConnectionError):
        run()


@pytest.mark.parametrize("on_error", [None, "ignore"])
def test_our_cache_without_its_table_ends_the_run(request, settings, on_error):
    use_old_engine(request, settings, "cache", "ours", OPTIONS={"ON_ERROR": on_error})
    (key,) = old_sessions("cache", 1)
    sql("ALTER TABLE pgonly_cache RENAME TO elsewhere")
    with pytest.raises(CacheError):
        run()
    with pytest.raises(CacheError):
        SessionStore(key).load()


def test_django_redis_that_ignores_exceptions_ends_the_run(request, settings):
    use_old_engine(request, settings, "cache", "django-redis", OPTIONS={"IGNORE_EXCEPTIONS": True})
    (key,) = old_sessions("cache", 1)
    name, client = old_store("cache", key).cache_key, caches["old"].client.get_client()
    caches["old"].delete(name)
    client.lpush(caches["old"].make_key(name), "a list, which no GET can read")
    with pytest.raises(Exception, match="WRONGTYPE"):
        run()


def test_who_is_logged_in_stays_logged_in_once_the_previous_engine_is_gone(old, settings, django_user_model):
    before, after = Client(), Client()
    settings.SESSION_ENGINE = f"{BACKENDS}.{old}"
    before.force_login(django_user_model.objects.create(username="ada"))
    settings.SESSION_ENGINE = "pgonly_django.sessions"
    run()
    caches["old"].clear()
    settings.PGONLY = {}
    after.cookies = before.cookies
    assert after.get("/whoami/").text == "ada"
