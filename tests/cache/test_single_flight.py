"""get_or_set: one computes, the others wait, whoever dies is replaced, and old data is not stored."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import async_to_sync

from pgonly_django.cache.entry import CHANNEL
from pgonly_django.cache.options import background
from pgonly_django.cache.single_flight import SingleFlight
from pgonly_django.database.listener import payload
from pgonly_django.database.operation import run
from pgonly_django.exceptions import CacheError
from pgonly_django.models import CacheEntry
from tests.cache.conftest import expire_by, start_crowd
from tests.waiting import beside, wait_for


def test_a_hit_computes_nothing(cache):
    cache.set("key", None)
    assert cache.get_or_set("key", lambda: pytest.fail("computed")) is None


def test_a_miss_computes_and_stores_with_its_timeout(cache):
    assert cache.get_or_set("key", lambda: "value", 1000) == "value"
    assert cache.get("key") == "value"
    assert 990 < cache.ttl("key") <= 1000
    assert cache.get_or_set("plain", 5) == 5


@pytest.mark.slow
@pytest.mark.process
def test_of_fifty_processes_one_computes(crowd, tmp_path):
    calls = tmp_path / "calls"
    assert crowd("get_or_set", 50, calls=str(calls), seconds=0.5) == [42] * 50
    assert len(calls.read_text().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.process
def test_of_fifty_processes_one_more_computes_when_the_first_is_killed(transactional_db, tmp_path):
    calls = tmp_path / "calls"
    crowd = start_crowd("get_or_set", 50, calls=str(calls), seconds=2.0, lock_timeout=8)
    first = int(wait_for(lambda: calls.exists() and calls.read_text().splitlines()[:1])[0])
    os.kill(first, signal.SIGKILL)
    output, _ = crowd.communicate(timeout=60)
    assert output.splitlines() == ["42"] * 49
    assert len(calls.read_text().splitlines()) == 2


def in_two_threads(cache, first, second, **options):
    """get_or_set in a thread with `first`, and once that computes, here with `second`."""
    computing, go_on = threading.Event(), threading.Event()

    def compute():
        computing.set()
        assert go_on.wait(10)
        return first()

    with beside(lambda: cache.get_or_set("key", compute, **options)) as answers:
        assert computing.wait(10)
        second(go_on)
    return "failed" if isinstance(answers[0], ZeroDivisionError) else answers[0]


def test_a_set_during_the_computation_wins(cache):
    def set_newer(go_on):
        cache.set("key", "newer")
        go_on.set()

    assert in_two_threads(cache, lambda: "older", set_newer) == "older"
    assert cache.get("key") == "newer"


def test_when_the_computation_fails_the_next_caller_computes_at_once(cache):
    def call_meanwhile(go_on):
        threading.Timer(0.05, go_on.set).start()
        assert cache.get_or_set("key", lambda: "second", lock_timeout=60) == "second"

    assert in_two_threads(cache, lambda: 1 / 0, call_meanwhile, lock_timeout=60) == "failed"
    assert cache.get("key") == "second"


def test_a_computation_holds_no_connection(make_cache):
    cache = make_cache(POOL_SIZE=1)
    assert cache.get_or_set("outer", lambda: cache.get_or_set("inner", lambda: 7)) == 7


def test_a_stale_value_is_shown_while_one_caller_refreshes(cache):
    cache.get_or_set("key", lambda: "old", 10, stale=60)
    expire_by(5)
    assert cache.get("key") is None

    def look(go_on):
        assert cache.get_or_set("key", lambda: pytest.fail("computed"), 10, stale=60) == "old"
        go_on.set()

    assert in_two_threads(cache, lambda: "new", look, timeout=10, stale=60) == "new"
    assert cache.get("key") == "new"


def test_what_is_too_stale_is_computed_anew(cache):
    cache.get_or_set("key", lambda: "old", 10, stale=3)
    expire_by(5)
    assert cache.get_or_set("key", lambda: "new", 10, stale=3) == "new"


def test_async_callers_wait_for_one_async_computation(cache):
    calls = []

    async def compute():
        calls.append(1)
        await asyncio.sleep(0.1)
        return "value"

    async def crowd():
        return await asyncio.gather(*(cache.aget_or_set("key", compute) for _ in range(20)))

    assert asyncio.run(crowd()) == ["value"] * 20
    assert len(calls) == 1


@pytest.mark.parametrize("times", [1, 2])
def test_a_cancelled_async_computation_lets_the_next_one_compute(cache, times):
    async def scene():
        task = asyncio.create_task(cache.aget_or_set("key", lambda: asyncio.sleep(60), lock_timeout=600))
        while not await CacheEntry.objects.filter(claim__isnull=False).aexists():  # noqa: ASYNC110 - the row is the event
            await asyncio.sleep(0.01)  # the claim is made by the other task
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
        return await cache.aget_or_set("key", lambda: "next", lock_timeout=600)

    assert async_to_sync(scene)() == "next"


@pytest.mark.parametrize("on_error", [None, "ignore", "raise"])
def test_a_cache_error_of_the_function_is_the_callers_and_the_function_is_called_once(make_cache, on_error):
    cache, calls = make_cache(ON_ERROR=on_error), []

    def compute():
        calls.append(1)
        raise CacheError("of the function's own cache")

    with pytest.raises(CacheError, match="of the function's own"):
        cache.get_or_set("key", compute)

    def call_meanwhile(go_on):
        threading.Timer(0.05, go_on.set).start()
        with pytest.raises(CacheError, match="of the function's own"):
            cache.get_or_set("key", compute)

    assert in_two_threads(cache, lambda: 1 / 0, call_meanwhile) == "failed"
    assert calls == [1, 1]


def assert_is_not_claimed():
    entry = CacheEntry.objects.get()
    assert (entry.claim, entry.claimed_until) == (None, None)


def test_a_computation_that_fails_has_no_claim_left_when_its_caller_hears_of_it(cache):
    with pytest.raises(ZeroDivisionError):
        cache.get_or_set("key", lambda: 1 / 0, lock_timeout=600)
    assert_is_not_claimed()


class InterruptedByPickling:
    def __reduce__(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("compute", "errors"),
    [(lambda: lambda: 1, (pickle.PicklingError, AttributeError)), (InterruptedByPickling, KeyboardInterrupt)],
    ids=["not storable", "interrupted"],
)
def test_a_value_that_is_not_serialized_raises_and_keeps_nobody_waiting(cache, compute, errors):
    with pytest.raises(errors):
        cache.get_or_set("key", compute, lock_timeout=600)
    assert_is_not_claimed()
    assert cache.get_or_set("key", lambda: "next", lock_timeout=600) == "next"


@pytest.mark.parametrize("on_error", [None, "ignore", "raise"])
def test_a_value_too_large_is_returned_and_keeps_nobody_waiting(make_cache, monkeypatch, on_error):
    monkeypatch.setattr("pgonly_django.cache.store.FIELD_LIMIT", 100)
    cache = make_cache(ON_ERROR=on_error)
    assert cache.get_or_set("key", lambda: "x" * 200, lock_timeout=600) == "x" * 200
    assert_is_not_claimed()
    assert cache.get_or_set("key", lambda: "small", lock_timeout=600) == "small"


@pytest.mark.parametrize("on_error", [None, "ignore", "raise"])
def test_a_value_that_postgresql_refuses_is_returned_and_keeps_nobody_waiting(
    make_cache, server, monkeypatch, caplog, on_error
):
    """It was paid for. Here the table takes no values for a while; a full disk is like that."""
    cache = make_cache(ON_ERROR=on_error)

    def compute():
        server.execute("ALTER TABLE pgonly_cache ADD CONSTRAINT tests_none CHECK (value IS NULL) NOT VALID")
        return "paid for"

    try:
        assert cache.get_or_set("key", compute, lock_timeout=600) == "paid for"
        assert "could not store its value" in caplog.text
        assert_is_not_claimed()
    finally:
        server.execute("ALTER TABLE pgonly_cache DROP CONSTRAINT tests_none")
    assert cache.get_or_set("key", lambda: "next", lock_timeout=600) == "next"


def test_a_timeout_of_zero_makes_nobody_wait(cache):
    def call_meanwhile(go_on):
        assert cache.get_or_set("key", lambda: "mine", 0, lock_timeout=600) == "mine"
        go_on.set()

    assert in_two_threads(cache, lambda: "other's", call_meanwhile, timeout=0, lock_timeout=600) == "other's"


class Renamed:
    """Stands for a class of an older release."""


def make_unreadable(key):
    """What is left of an entry whose class is gone."""
    gone = pickle.dumps(Renamed(), protocol=0).replace(b"Renamed", b"Deleted")
    CacheEntry.objects.filter(key__endswith=f":{key}").update(value=gone)


def test_an_unreadable_entry_is_computed_once_more_and_then_readable(cache):
    cache.set("key", Renamed())
    make_unreadable("key")
    assert cache.get_or_set("key", lambda: "new") == "new"
    assert cache.get_or_set("key", lambda: pytest.fail("computed")) == "new"


def test_an_unreadable_entry_costs_get_many_that_entry_only(make_cache, caplog):
    cache, strict = make_cache("shared"), make_cache("shared", ON_ERROR="raise")
    cache.set_many({"good": 1, "bad": Renamed()})
    make_unreadable("bad")
    assert cache.get_many(["good", "bad"]) == {"good": 1}
    assert "cannot be read" in caplog.text
    with pytest.raises(CacheError, match="cannot be read"):
        strict.get_many(["good", "bad"])


def flight_of(cache, function):
    return SingleFlight(cache.store, cache.stored_key("key", None), function, 60, 0, 600, (), False)


def test_a_caller_cancelled_while_it_claims_keeps_nobody_waiting(cache):
    """Cut off between what PostgreSQL did and what it said of it."""
    flight = flight_of(cache, lambda: 1)
    operation = flight._claim()
    wait = next(operation)
    while not CacheEntry.objects.filter(claim__isnull=False).exists():
        wait.block()
        if not CacheEntry.objects.filter(claim__isnull=False).exists():
            wait = operation.send(None)
    with pytest.raises(KeyboardInterrupt):
        cut_off(operation, KeyboardInterrupt())
    wait_for(CacheEntry.objects.filter(claim=None).exists, what="the claim's end")
    assert cache.get_or_set("key", lambda: "next", lock_timeout=600) == "next"


def cut_off(operation, error):
    """Throw `error` into the operation and let it clean up."""
    wait = operation.throw(error)
    while True:
        wait = operation.send(wait.block())


def test_a_caller_cancelled_while_it_stores_has_stored_what_it_paid_for(cache):
    flight = flight_of(cache, lambda: "paid for")
    operation, wait = flight.run(), None
    wait = next(operation)
    computed = False
    while not computed:
        computed = type(wait).__name__ == "Compute"
        wait = operation.send(wait.block())
    with pytest.raises(KeyboardInterrupt):
        cut_off(operation, KeyboardInterrupt())
    assert wait_for(lambda: cache.get("key")) == "paid for"


def test_an_abandoned_computation_says_nothing_and_frees_its_claim(cache):
    flight = flight_of(cache, lambda: 1)
    operation = flight.run()
    wait = next(operation)
    while type(wait).__name__ != "Compute":
        wait = operation.send(wait.block())
    operation.close()
    wait_for(lambda: CacheEntry.objects.get().claim is None, 20, "the claim's end")
    assert cache.get_or_set("key", lambda: "next", lock_timeout=600) == "next"


def test_a_claim_that_arrives_after_it_was_given_up_keeps_nobody_waiting(cache):
    flight = flight_of(cache, lambda: 1)
    background.undo(lambda: run(flight._end_claim(4711)))
    claim_of_another(flight.key)
    assert cache.get_or_set("key", lambda: "next", lock_timeout=600) == "next"


def claim_of_another(key):
    CacheEntry.objects.create(
        key=key.decode(), codec=0, expires_at=datetime(1970, 1, 1, tzinfo=UTC), prune_minute=2**31 - 1,
        claim=4711, claimed_until=datetime.now(UTC) + timedelta(days=1),
    )  # fmt: skip


def test_where_no_thread_can_be_started_callers_look_by_themselves(cache, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    def call_meanwhile(go_on):
        timer = threading.Timer(0.2, go_on.set)
        timer.start()
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", refuse)
            assert cache.get_or_set("key", lambda: pytest.fail("computed")) == "first"

    assert in_two_threads(cache, lambda: "first", call_meanwhile) == "first"


def test_delete_tags_of_a_tag_that_only_the_stale_value_has_ends_both(cache):
    cache.set("key", "old", 10, tags=["old"])
    expire_by(5)

    def delete(go_on):
        cache.delete_tags("old")
        go_on.set()
        assert cache.get_or_set("key", lambda: "after the deletion", 10, stale=60) == "after the deletion"

    refreshed = in_two_threads(cache, lambda: "new", delete, timeout=10, stale=60, tags=["new"])
    assert refreshed == "new"
    assert cache.get("key") == "after the deletion"


def test_delete_tags_of_a_tag_that_only_the_refresh_gives_ends_it(cache):
    cache.get_or_set("key", lambda: "old", 10, tags=["old"])
    expire_by(5)

    def refresh():
        assert cache.delete_tags("new") == 0
        return "new"

    assert cache.get_or_set("key", refresh, 10, tags=["new"]) == "new"
    assert cache.get("key") is None


def test_those_who_wait_are_woken_by_the_answer_and_by_a_failure(cache, other):
    """Without that they look by themselves, once a second in the end."""
    other.execute(f"LISTEN {CHANNEL}")
    cache.get_or_set("answer", lambda: 1)
    with pytest.raises(ZeroDivisionError):
        cache.get_or_set("failure", lambda: 1 / 0)
    expected = [payload(cache.stored_key(key, None)).decode() for key in ("answer", "failure")]
    assert [each.payload for each in other.notifies(timeout=20, stop_after=2)] == expected


def test_a_caller_waits_at_most_twice_its_lock_timeout(cache):
    """Whatever the claim of another says, and however often it is renewed."""
    claim_of_another(cache.stored_key("key", None))
    with beside(lambda: cache.get_or_set("key", lambda: "mine", lock_timeout=0.2)) as answers:
        pass
    assert answers == ["mine"]
    assert CacheEntry.objects.get().claim == 4711
