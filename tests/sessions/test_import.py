from __future__ import annotations

from importlib import import_module
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from benchmarks.servers import redis
from pgonly_django.models import Session
from pgonly_django.sessions import SessionStore
from pgonly_django.sessions.importing import import_sessions

pytestmark = pytest.mark.django_db

BACKENDS = "django.contrib.sessions.backends"
TABLE_CACHE = {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "old_cache"}
LOCAL_CACHE = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
KINDS = {"db": LOCAL_CACHE, "cached_db": LOCAL_CACHE, "cache": LOCAL_CACHE, "cache in a table": TABLE_CACHE}


@pytest.fixture(params=KINDS)
def old(request, settings):
    """The name of the old engine, which still serves."""
    name = request.param.partition(" ")[0]
    settings.CACHES = {"default": KINDS[request.param]}
    call_command("createcachetable")
    settings.SESSION_ENGINE = f"{BACKENDS}.{name}"
    yield name
    from django.core.cache import cache

    cache.clear()


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


def run(name: str, **options) -> str:
    output = StringIO()
    call_command("pgonly_import_sessions", "--from", name, stdout=output, **options)
    return output.getvalue()


def test_every_live_session_is_here_under_its_cookie(old):
    keys = old_sessions(old, 5)
    assert run(old, batch=2).startswith("5 copied")
    assert [SessionStore(key)["number"] for key in keys] == [0, 1, 2, 3, 4]
    assert Session.objects.for_key(keys[3]).get().user_id == "3"


def test_a_second_run_changes_nothing(old):
    old_sessions(old, 3)
    run(old)
    assert "0 copied, 0 brought up to date, 3 kept as they were, 0 dropped" in run(old)


def test_a_run_that_was_killed_is_finished_by_the_next(old):
    keys = old_sessions(old, 5)
    next(import_sessions(f"{BACKENDS}.{old}", 2))
    assert Session.objects.count() == 2
    run(old)
    assert all(SessionStore().exists(key) for key in keys)


def test_what_the_old_code_changed_since_is_brought_up_to_date(old):
    (key,) = old_sessions(old, 1)
    run(old)
    session = old_store(old, key)
    session["number"] = 99
    session.save()
    assert "1 brought up to date" in run(old)
    assert SessionStore(key)["number"] == 99


def test_what_was_written_here_is_never_overwritten(old):
    (key,) = old_sessions(old, 1)
    run(old)
    session = SessionStore(key)
    session["number"] = "here"
    session.save()
    assert "1 kept as they were" in run(old)
    assert SessionStore(key)["number"] == "here"


def test_a_session_that_the_old_code_ended_meanwhile_is_dropped(old):
    gone, kept = old_sessions(old, 2)
    run(old)
    old_store(old, gone).delete()
    assert "1 dropped" in run(old)
    assert not SessionStore().exists(gone)
    assert SessionStore().exists(kept)


def test_after_the_switch_an_import_that_could_revive_ended_sessions_is_refused(settings):
    settings.SESSION_ENGINE = "pgonly_django.sessions"
    with pytest.raises(CommandError, match="SESSION_FALLBACK_ENGINE"):
        run("db")


def test_after_the_switch_a_logged_out_session_is_not_imported_again(settings):
    settings.SESSION_ENGINE = f"{BACKENDS}.db"
    (key,) = old_sessions("db", 1)
    run("db")
    settings.SESSION_ENGINE = "pgonly_django.sessions"
    settings.PGONLY = {"SESSION_FALLBACK_ENGINE": f"{BACKENDS}.db"}
    Session.objects.for_key(key).revoke()
    run("db")
    assert not SessionStore().exists(key)


def test_a_cache_that_cannot_list_its_keys_names_the_other_way(settings, tmp_path):
    settings.SESSION_ENGINE = f"{BACKENDS}.cache"
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": tmp_path}
    }
    with pytest.raises(CommandError, match="SESSION_FALLBACK_ENGINE"):
        run("cache")


def test_an_expired_session_is_left_behind(settings):
    settings.SESSION_ENGINE = f"{BACKENDS}.db"
    session = old_store("db")
    session["a"] = 1
    session.set_expiry(-10)
    session.save()
    run("db")
    assert not Session.objects.exists()


def test_sessions_come_out_of_redis(settings):
    pytest.importorskip("redis")
    with redis() as url:
        if url is None:
            pytest.skip("redis-server is not installed")
        backend = "django.core.cache.backends.redis.RedisCache"
        settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": url, "KEY_PREFIX": "site[1]*"}}
        settings.SESSION_ENGINE = f"{BACKENDS}.cache"
        from django.core.cache import cache

        cache.set("no-session", 1)
        keys = old_sessions("cache", 3)
        assert run("cache").startswith("3 copied")
        assert [SessionStore(key)["number"] for key in keys] == [0, 1, 2]
