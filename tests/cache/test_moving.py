"""One cache in front of two. The two are PostgresCaches, the memory of this process, and Redis where it is there."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.servers import redis
from pgonly_django.cache.checks import check_moving
from tests.waiting import PATIENT

pytestmark = pytest.mark.slow

MOVING = "pgonly_django.cache.moving.MovingCache"
POSTGRES = {"BACKEND": "pgonly_django.cache.PostgresCache", "LOCATION": "old", "OPTIONS": PATIENT}
MEMORY = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "moving"}
REDIS = {
    "Django's Redis": "django.core.cache.backends.redis.RedisCache",
    "django-redis": "django_redis.cache.RedisCache",
}


def moving(write: str, old: str = "old", new: str = "new", **more: object) -> dict:
    return {"BACKEND": MOVING, "OPTIONS": {"OLD": old, "NEW": new, "WRITE": write}, **more}


def with_caches(new: dict, old: dict = POSTGRES):
    """ "before" and "default" are the caches of two processes during a deploy: one of each WRITE."""
    return override_settings(
        CACHES={"old": old, "new": new, "before": moving("old"), "default": moving("new")}
    )


@pytest.fixture(scope="module")
def redis_url():
    with redis() as url:
        if url is None:
            pytest.skip("redis-server is not installed")
        yield url


@pytest.fixture(params=["ours", "memory", *REDIS])
def pair(request, db):
    """MovingCaches from a PostgresCache to one of each kind."""
    if request.param in REDIS:
        pytest.importorskip("django_redis" if request.param == "django-redis" else "redis")
        new = {"BACKEND": REDIS[request.param], "LOCATION": request.getfixturevalue("redis_url")}
    else:
        new = {"ours": {**POSTGRES, "LOCATION": "new"}, "memory": MEMORY}[request.param]
    with with_caches(new):
        caches["new"].clear()
        yield caches["default"]
        caches["new"].clear()


def test_what_was_cached_before_the_move_is_found(pair):
    caches["old"].set("page", "from before")
    assert pair.get("page") == "from before"
    assert pair.get_many(["page", "other"]) == {"page": "from before"}
    assert "page" in pair
    assert pair.get("other", 7) == 7


def test_none_is_a_value_and_no_miss(pair):
    caches["old"].set("answer", "old")
    pair.set("answer", None)
    assert pair.get("answer", "missing") is None


def test_a_write_goes_to_the_new_cache_and_leaves_nothing_in_the_old_one(pair):
    caches["old"].set_many({"page": 1, "list": 1})
    pair.set("page", 2)
    pair.set_many({"list": 2})
    assert caches["new"].get_many(["page", "list"]) == {"page": 2, "list": 2}
    assert caches["old"].get_many(["page", "list"]) == {}


def test_a_deletion_is_one_in_both(pair):
    caches["old"].set_many({"a": 1, "b": 1})
    caches["new"].set_many({"c": 1, "d": 1})
    assert pair.delete("a") is True
    assert pair.delete("c") is True
    assert pair.delete("none") is False
    pair.delete_many(["b", "d"])
    assert pair.get_many(["a", "b", "c", "d"]) == {}
    caches["old"].set("a", 1)
    caches["new"].set("c", 1)
    pair.clear()
    assert pair.get_many(["a", "c"]) == {}


def test_add_heeds_an_entry_in_either_cache(pair):
    caches["old"].set("a", "old")
    assert pair.add("a", "mine") is False
    assert pair.add("b", "mine") is True
    assert pair.add("b", "again") is False
    assert pair.get_many(["a", "b"]) == {"a": "old", "b": "mine"}


def test_a_sum_is_taken_over_with_what_is_left_of_its_time(pair):
    caches["old"].set("visits", 40, 500)
    assert pair.incr("visits") == 41
    assert pair.decr("visits", 2) == 39
    assert caches["old"].get("visits") is None
    if hasattr(caches["new"], "ttl"):
        assert 400 < caches["new"].ttl("visits") <= 500
    with pytest.raises(ValueError, match="not found"):
        pair.incr("none")


def test_many_at_once_take_a_sum_over_and_lose_no_count(transactional_db, redis_url):
    pytest.importorskip("django_redis")
    with with_caches({"BACKEND": REDIS["django-redis"], "LOCATION": redis_url}):
        caches["old"].set("visits", 100)
        threads = [threading.Thread(target=lambda: [caches["default"].incr("visits") for _ in range(50)])
                   for _ in range(8)]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert caches["default"].get("visits") == 500
        assert caches["old"].get("visits") is None
        caches["new"].clear()


def test_touch_prolongs_where_the_entry_is(pair):
    caches["old"].set("a", 1, 5)
    assert pair.touch("a", 500) is True
    assert caches["old"].ttl("a") > 400
    assert pair.touch("none") is False


def test_get_or_set_computes_only_where_neither_has_it(pair):
    caches["old"].set("a", "old")
    assert pair.get_or_set("a", lambda: pytest.fail("computed")) == "old"
    assert pair.get_or_set("b", lambda: "computed") == "computed"
    assert caches["new"].get("b") == "computed"


def test_the_async_methods_do_the_same(pair):
    async def use() -> list[object]:
        await pair.aset("a", 1)
        await pair.aset_many({"b": 2, "c": 3})
        return [
            await pair.aget("a"), await pair.aget_many(["b", "c"]), await pair.aadd("a", 5), await pair.aincr("a"),
            await pair.adecr("a"), await pair.atouch("a", 60), await pair.ahas_key("none"),
            await pair.aget_or_set("d", lambda: 4), await pair.adelete("a"), await pair.adelete_many(["b", "c"]),
            await pair.aget_many(["a", "b", "c", "d"]), await pair.aclear(), await pair.aget("d"),
        ]  # fmt: skip

    assert asyncio.run(use()) == [
        1, {"b": 2, "c": 3}, False, 2, 1, True, False, 4, True, None, {"d": 4}, None, None,
    ]  # fmt: skip


def test_each_cache_keeps_its_own_timeout_prefix_and_version(db):
    new = {**POSTGRES, "LOCATION": "new", "TIMEOUT": 30, "KEY_PREFIX": "site", "VERSION": 3}
    with with_caches(new, {**POSTGRES, "TIMEOUT": None}):
        caches["default"].set("page", 1)
        assert 20 < caches["new"].ttl("page") <= 30
        caches["default"].set("page", 1, version=7)
        assert caches["new"].get("page", version=7) == 1


def test_the_version_that_goes_up_is_that_of_the_caches(db):
    with with_caches({**POSTGRES, "LOCATION": "new", "VERSION": 3}, {**POSTGRES, "VERSION": 3}):
        cache = caches["default"]
        caches["old"].set("page", 1)
        assert cache.incr_version("page") == 4
        assert (cache.get("page"), cache.get("page", version=4)) == (None, 1)
        assert cache.decr_version("page", version=4) == 3
        assert async_to_sync(cache.aincr_version)("page") == 4
        assert caches["new"].get("page", version=4) == 1


def test_processes_of_both_kinds_see_the_same_entries_during_the_deploy(pair):
    before, after = caches["before"], pair
    after.set("page", "new")
    before.set("page", "newer")
    assert after.get("page") == before.get("page") == "newer"
    after.delete("page")
    assert before.get("page") is None
    before.set("visits", 1)
    assert [after.incr("visits"), before.incr("visits"), after.incr("visits")] == [2, 3, 4]


KEYS = st.sampled_from("abc")
ACTS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.integers(0, 9)),
    st.tuples(st.just("add"), KEYS, st.integers(0, 9)),
    st.tuples(st.sampled_from(["get", "incr", "delete"]), KEYS),
    st.tuples(st.just("get_many"), st.lists(KEYS, max_size=3)),
    st.tuples(st.just("set_many"), st.dictionaries(KEYS, st.integers(0, 9), max_size=3)),
    st.tuples(st.just("delete_many"), st.lists(KEYS, max_size=3)),
)


@given(st.lists(st.tuples(st.sampled_from(["before", "default"]), ACTS), max_size=25))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_called_by_processes_of_both_kinds_it_answers_as_one_cache(db, acts):
    with with_caches({**POSTGRES, "LOCATION": "new"}):
        caches["old"].clear()
        caches["new"].clear()
        model: dict[str, int] = {}
        for alias, (method, *args) in acts:
            assert answer(caches[alias], method, args) == expected(model, method, args)


def answer(cache, method, args):
    try:
        return getattr(cache, method)(*args)
    except ValueError:
        return "no such key"


def expected(model, method, args):
    key = args[0]
    if method == "set":
        model[key] = args[1]
    elif method == "add":
        return model.setdefault(key, args[1]) is args[1] if key not in model else False
    elif method == "get":
        return model.get(key)
    elif method == "incr":
        if key not in model:
            return "no such key"
        model[key] += 1
        return model[key]
    elif method == "delete":
        return model.pop(key, None) is not None
    elif method == "get_many":
        return {each: model[each] for each in key if each in model}
    elif method == "set_many":
        model |= key
        return []
    else:
        for each in key:
            model.pop(each, None)
    return None


def test_what_would_have_to_be_in_both_caches_says_what_to_do_instead(pair):
    with pytest.raises(AttributeError, match=r"no 'lock'.* Call it on caches\['old'\] or caches\['new'\]"):
        pair.lock("import")
    with pytest.raises(TypeError, match=r"no 'nx'. Use add\(\)"):
        pair.set("a", 1, nx=True)
    assert not hasattr(pair, "delete_tags")


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"OPTIONS": {"NEW": "new"}}, "OPTIONS needs 'OLD'"),
        ({"OPTIONS": {"OLD": "old", "NEW": "old"}}, "OLD and NEW are both 'old'"),
        ({"OPTIONS": {"OLD": "old", "NEW": "new", "WRITE": "both"}}, 'must be "old" or "new", got \'both\''),
        ({"OPTIONS": {"OLD": "old", "NEW": "new", "READ": "new"}}, "OPTIONS has 'READ'"),
        ({"OPTIONS": {"OLD": "old", "NEW": "new"}, "TIMEOUT": 5}, "TIMEOUT has no effect here"),
        ({"OPTIONS": {"OLD": "old", "NEW": "none"}}, "'none' is not in CACHES"),
        ({"OPTIONS": {"OLD": "old", "NEW": "default"}}, "'default' is a MovingCache too"),
    ],
)
def test_what_is_wrong_in_the_settings_is_an_error_of_the_check(entry, problem):
    with override_settings(CACHES={"default": {"BACKEND": MOVING, **entry}, "old": MEMORY, "new": MEMORY}):
        (found,) = check_moving()
        assert found.id == "pgonly_django.E103"
        assert problem in found.msg


def test_wrong_options_are_raised_by_the_first_use_and_not_before():
    with (
        override_settings(CACHES={"default": {"BACKEND": MOVING, "OPTIONS": {"OLD": "default", "NEW": "x"}}}),
        pytest.raises(ImproperlyConfigured, match="is a MovingCache too"),
    ):
        caches["default"].delete("a")
    with override_settings(CACHES={"default": {"BACKEND": MOVING}}):
        cache = caches["default"]
        with pytest.raises(ImproperlyConfigured, match="OPTIONS needs 'OLD'"):
            cache.get("a")


def test_good_settings_are_no_error():
    with with_caches(MEMORY):
        assert check_moving() == []
