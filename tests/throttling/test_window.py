"""At most so many requests in any period."""

from __future__ import annotations

import bisect
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgonly_django.cache import PostgresCache
from pgonly_django.database.operation import run
from pgonly_django.throttling.counted import TIMES_AT_MOST, admit
from tests.sql import sql
from tests.waiting import PATIENT

ENTRY = "SELECT number, octet_length(value), expires_at - clock_timestamp() FROM pgonly_cache"


@pytest.fixture
def ask(cache):
    """Admission of a request, by default of a throttle that has nothing else to do."""
    return lambda limit, seconds, key="user 1": run(
        admit(cache.store, cache.stored_key(key, None), limit, seconds)
    )


@pytest.fixture
def ask_in_a_testcase(db):
    """On the connection of Django's TestCase, whose transaction goes on."""
    cache = PostgresCache("a testcase", {"OPTIONS": PATIENT})
    return lambda limit, seconds: run(admit(cache.store, cache.stored_key("user", None), limit, seconds))


def age(seconds):
    """As if all that happened had happened so long before."""
    for (value,) in sql("SELECT value FROM pgonly_cache"):
        data = bytes(value)
        times = [int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), 8)]
        moved = b"".join(int.to_bytes(t - round(seconds * 1e6), 8, "big") for t in times)
        query = "UPDATE pgonly_cache SET value = %s, expires_at = expires_at - %s * interval '1 second'"
        sql(query, moved, seconds)


def test_the_limit_is_admitted_and_no_more(ask):
    found = [ask(3, 60) for _ in range(5)]
    assert [each.admitted for each in found] == [True, True, True, False, False]
    assert [each.counted for each in found] == [1, 2, 3, 3, 3]


def test_a_refused_request_says_when_the_next_is_admitted(ask):
    ask(2, 60)
    age(20)
    ask(2, 60)
    assert 30 < ask(2, 60).wait_seconds <= 40
    age(30)
    assert 0 < ask(2, 60).wait_seconds <= 10
    age(10)
    assert ask(2, 60).admitted  # the first is over
    assert 5 < ask(2, 60).wait_seconds <= 20  # the second is not


def test_it_waits_as_long_as_it_said(ask):
    ask(1, 0.3)
    time.sleep(ask(1, 0.3).wait_seconds)
    assert ask(1, 0.3).admitted


def test_each_key_and_each_limit_of_nothing_stands_alone(ask):
    assert ask(1, 60).admitted
    assert ask(1, 60, "user 2").admitted
    refused = ask(0, 60, "user 3")
    assert (refused.admitted, refused.wait_seconds) == (False, 60)


@pytest.mark.sample(2)
@pytest.mark.parametrize("limit", [1, 5, 128, 130, 300])
def test_no_period_has_more_than_the_limit_and_99_percent_of_it_come_back(ask, limit):
    """Bursts at random moments, of more requests than may be: the row is aged between them."""
    admitted, aged, started, chance = [], 0.0, time.monotonic(), random.Random(limit)
    for _ in range(20):
        step = chance.expovariate(1 / 15)
        age(step)
        aged += step
        burst = [ask(limit, 100.0).admitted for _ in range(chance.randint(1, max(limit // 3, 2)))]
        admitted += [aged + time.monotonic() - started] * sum(burst)
    for end in admitted:
        in_period = bisect.bisect_right(admitted, end) - bisect.bisect_right(admitted, end - 100.0 + 0.2)
        assert in_period <= limit
    ((_, size, _),) = sql(ENTRY)
    assert (len(admitted) > limit, size <= 8 * (TIMES_AT_MOST + 1)) == (True, True)
    age(101)
    assert sum(ask(limit, 100.0).admitted for _ in range(limit + 5)) in range(int(limit * 0.99), limit + 1)


def test_its_row_expires_a_period_after_the_last_admitted_request(ask):
    ask(1, 60)
    age(10)
    ask(1, 60)
    ((number, _, left),) = sql(ENTRY)
    assert (number, 40 < left.total_seconds() <= 50) == (1, True)
    age(51)
    assert ask(1, 60).counted == 1


@pytest.mark.parametrize("limit", [7, 300])
def test_sixteen_at_once_get_exactly_the_limit(cache, limit):
    key = cache.stored_key("user 1", None)
    with ThreadPoolExecutor(16) as threads:
        found = [*threads.map(lambda _: run(admit(cache.store, key, limit, 60)), range(limit + 100))]
    assert sum(each.admitted for each in found) == limit
    assert all(45 < each.wait_seconds <= 60 for each in found if not each.admitted)


def test_a_refused_request_writes_nothing(ask):
    """So a flood of them leaves no dead rows behind a long transaction, and waits for no lock."""
    ask(1, 60)
    version = "SELECT ctid, xmin, xmax FROM pgonly_cache"
    before = sql(version)
    assert not any(ask(1, 60).admitted for _ in range(20))
    assert sql(version) == before


def test_a_refused_request_waits_for_no_lock(ask, other):
    ask(1, 60)
    with other.transaction():
        other.execute("SELECT FROM pgonly_cache FOR UPDATE")
        assert not ask(1, 60).admitted


def test_a_durable_cache_counts_in_its_table(make_cache):
    cache = make_cache(DURABLE=True)
    found = [run(admit(cache.store, cache.stored_key("user", None), 1, 60)).admitted for _ in range(2)]
    assert found == [True, False]
    assert sql("SELECT number FROM pgonly_cache_durable") == [(1,)]


def test_an_entry_of_another_kind_under_the_key_is_replaced(cache, ask):
    for value in ("text", 5, {"a": 1}):
        cache.set("user 1", value)
        assert ask(2, 60).counted == 1
    assert cache.get("user 1") == 1  # reads as what was counted


def test_a_rollback_does_not_take_a_request_back(ask, transactional_db):
    from django.db import transaction

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        ask(1, 60)
        raise ZeroDivisionError
    assert not ask(1, 60).admitted


def test_a_bounded_cache_counts_the_row(make_cache):
    bounded = make_cache(MAX_ENTRIES=50)
    for n in range(200):
        run(admit(bounded.store, bounded.stored_key(f"user {n}", None), 5, 60))
    assert len(sql(ENTRY)) < 120


@pytest.mark.parametrize("seconds", [0, -1, 10**12])
def test_a_period_that_is_none_is_refused(ask, seconds):
    with pytest.raises(ValueError, match="period must be between"):
        ask(1, seconds)


@pytest.mark.django_db
def test_it_counts_inside_a_testcase(ask_in_a_testcase):
    assert [ask_in_a_testcase(2, 60).admitted for _ in range(3)] == [True, True, False]
