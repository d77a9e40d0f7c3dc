"""Times and counts of every shape, through the cache's public methods: each is taken for what it says, or refused."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from pgonly_django.cache import cached
from pgonly_django.models import CacheLock
from tests.cache.conftest import expire_by

ALL_TIMEOUTS = {
    "set": lambda cache, timeout: cache.set("key", 1, timeout),
    "add": lambda cache, timeout: cache.add("other", 1, timeout),
    "nx": lambda cache, timeout: cache.set("other", 1, timeout, nx=True),
    "xx": lambda cache, timeout: cache.set("key", 1, timeout, xx=True),
    "touch": lambda cache, timeout: cache.touch("key", timeout),
    "expire": lambda cache, timeout: cache.expire("key", timeout),
    "pexpire": lambda cache, timeout: cache.pexpire("key", timeout),
    "apexpire": lambda cache, timeout: asyncio.run(cache.apexpire("key", timeout)),
    "set_many": lambda cache, timeout: cache.set_many({"key": 1}, timeout),
    "get_and_touch": lambda cache, timeout: cache.get_and_touch("key", timeout=timeout),
    "get_or_set": lambda cache, timeout: cache.get_or_set("other", 1, timeout),
    "cached": lambda _, timeout: cached(timeout, key="key"),
}


NO_TIMES = ["60", b"60", True, False, datetime(2030, 1, 1, tzinfo=UTC), date(2030, 1, 1), [1], 1j, object()]
LONG = [timedelta.max, Fraction(120_001, 2), 9e10, 1.2e11, 1e13, math.inf, 1e300, 10**400]


@pytest.mark.parametrize("call", ALL_TIMEOUTS.values(), ids=ALL_TIMEOUTS)
class TestTimeouts:
    def test_what_is_none_is_refused_by_name_and_changes_nothing(self, cache, call):
        cache.set("key", 0)
        for wrong in NO_TIMES:
            with pytest.raises(
                TypeError, match=r"must be a number of (milli)?seconds, a timedelta or None, got"
            ):
                call(cache, wrong)
        for nan in (math.nan, Decimal("NaN")):
            with pytest.raises(ValueError, match="got NaN"):
                call(cache, nan)
        assert cache.get("key") == 0

    def test_what_is_one_keeps_the_entry(self, make_cache, call):
        cache = make_cache(ON_ERROR="raise")
        for right in (
            None,
            DEFAULT_TIMEOUT,
            60_000,
            60_000.5,
            timedelta(minutes=1),
            Decimal("60000.5"),
            *LONG,
        ):
            cache.set("key", 1)
            call(cache, right)
            assert cache.get("key") == 1

    def test_nought_and_less_is_over_already(self, make_cache, call):
        cache = make_cache(ON_ERROR="raise")
        for over in (0, -1, -0.5, timedelta(0), timedelta.min, -math.inf, -(10**400)):
            call(cache, over)
            assert cache.get("key") is None
            assert cache.get("other") is None


def test_pexpire_means_the_caches_own_timeout_by_default_timeout(make_cache):
    cache = make_cache(TIMEOUT=1000)
    cache.set("key", 1, 5)
    assert cache.pexpire("key", DEFAULT_TIMEOUT)
    assert cache.ttl("key") > 900
    assert cache.pexpire("key", None)
    assert cache.ttl("key") is None


@pytest.mark.parametrize("name", ["stale", "lock_timeout"])
class TestTimesOfAComputation:
    def test_what_is_none_is_refused_by_name(self, cache, name):
        for wrong in (*NO_TIMES, None):
            with pytest.raises(TypeError, match=f"{name} must be a number of seconds or a timedelta, got"):
                cache.get_or_set("key", 1, **{name: wrong})
            with pytest.raises(TypeError, match=name):
                cached(60, key="key", **{name: wrong})
        for wrong in (-1, math.nan, timedelta(seconds=-1)):
            with pytest.raises(ValueError, match=name):
                cache.get_or_set("key", 1, **{name: wrong})

    def test_what_is_one_is_taken(self, make_cache, name):
        cache = make_cache(ON_ERROR="raise")
        for right in (5, 0.5, timedelta(minutes=5), *LONG):
            assert cache.get_or_set("key", lambda: "new", 10, **{name: right}) == "new"
            assert cache.get_or_set("key", lambda: pytest.fail("computed"), 10, **{name: right}) == "new"
            cache.clear()


def test_stale_may_be_a_timedelta(cache):
    cache.get_or_set("key", lambda: "old", 10, stale=timedelta(minutes=10))
    expire_by(300)

    def refresh():
        other = cache.get_or_set("other", lambda: "computed")
        return f"new, {other}"

    assert cache.get_or_set("key", refresh, 10, stale=timedelta(minutes=10)) == "new, computed"


LOCK_TIMES = {
    "timeout": lambda cache, value: cache.lock("name", timeout=value).acquire(),
    "extend": lambda cache, value: held(cache).extend(value),
    "aextend": lambda cache, value: asyncio.run(held(cache).aextend(value)),
    "blocking_timeout": lambda cache, value: cache.lock("name", timeout=5, blocking_timeout=value).acquire(),
    "acquire": lambda cache, value: cache.lock("name", timeout=5).acquire(blocking_timeout=value),
    "aacquire": lambda cache, value: asyncio.run(
        cache.lock("name", timeout=5).aacquire(blocking_timeout=value)
    ),
}


def held(cache):
    lock = cache.lock("name", timeout=5)
    assert lock.acquire(blocking=False)
    return lock


@pytest.mark.parametrize("call", LOCK_TIMES.values(), ids=LOCK_TIMES)
def test_times_of_a_lock(cache, call):
    for right in (5, 0.5, timedelta(seconds=5), *LONG):
        call(cache, right)
        assert cache.lock("name").locked()
        CacheLock.objects.all().delete()
    for wrong in NO_TIMES:
        with pytest.raises(TypeError, match="must be a number of seconds or a timedelta, got"):
            call(cache, wrong)
        CacheLock.objects.all().delete()
    with pytest.raises(ValueError, match="got NaN"):
        call(cache, math.nan)


def test_a_lock_that_would_be_free_at_once_is_refused(cache):
    lock = held(cache)
    for over in (0, -1, timedelta(0)):
        with pytest.raises(ValueError, match="A lock's timeout must be more than 0 s"):
            cache.lock("name", timeout=over)
        with pytest.raises(ValueError, match="The time to extend a lock by must be more than 0 s"):
            lock.extend(over)


def test_a_lock_for_ever_ends_within_the_calendar(cache):
    cache.lock("name", timeout=math.inf).acquire()
    assert CacheLock.objects.get().expires_at.year > 5000


MOMENTS = {
    "expire_at": lambda cache, when: cache.expire_at("key", when),
    "aexpire_at": lambda cache, when: asyncio.run(cache.aexpire_at("key", when)),
    "pexpire_at": lambda cache, when: cache.pexpire_at("key", when),
    "apexpire_at": lambda cache, when: asyncio.run(cache.apexpire_at("key", when)),
}


@pytest.mark.parametrize("call", MOMENTS.values(), ids=MOMENTS)
def test_moments(make_cache, call):
    cache = make_cache(ON_ERROR="raise")
    for late in (datetime.max, datetime.max.replace(tzinfo=UTC), math.inf, 1e300, 10**400):
        cache.set("key", 1)
        assert call(cache, late)
        assert cache.ttl("key") is None
    for early in (datetime.min, datetime.min.replace(tzinfo=UTC), 0, -math.inf, -(10**400)):
        cache.set("key", 1)
        assert call(cache, early)
        assert cache.get("key") is None
    for wrong in ("2030", True, None, date(2030, 1, 1), timedelta(1)):
        with pytest.raises(TypeError, match="A moment must be a datetime"):
            call(cache, wrong)
    with pytest.raises(ValueError, match="got NaN"):
        call(cache, math.nan)


SIZES = {
    "iter_keys": lambda cache, size: list(cache.iter_keys("*", itersize=size)),
    "delete_pattern": lambda cache, size: cache.delete_pattern("*", itersize=size),
    "adelete_pattern": lambda cache, size: asyncio.run(cache.adelete_pattern("*", itersize=size)),
}


@pytest.mark.parametrize("call", SIZES.values(), ids=SIZES)
def test_a_batch_is_a_whole_number_above_nought(make_cache, call):
    cache = make_cache(ON_ERROR="raise")
    for wrong in ("10", 2.5, True):
        with pytest.raises(TypeError, match="itersize must be a whole number, got"):
            call(cache, wrong)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="itersize must be above 0, got"):
            call(cache, wrong)
    cache.set_many({"a": 1, "b": 2})
    assert len(cache.keys("*")) == 2
    assert call(cache, 10**30) in (["a", "b"], 2)


def test_a_tag_that_is_no_text_is_named(cache):
    for wrong in ([1], [None], [b"tag"], [["nested"]]):
        for call in (lambda: cache.set("key", 1, tags=wrong), lambda: cache.delete_tags(*wrong)):  # noqa: B023 - called at once
            with pytest.raises(TypeError, match="A tag must be a text, got"):
                call()
