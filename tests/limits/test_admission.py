"""The queue before a limiter, what is held, and a PostgreSQL that does not answer."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from pgonly_django import limiter
from pgonly_django.exceptions import LimitsUnavailableError
from pgonly_django.limits import admission, limiter_statements, pool_user
from pgonly_django.limits import renewal as renewal_module
from pgonly_django.limits.renewal import LEASE_SECONDS, renewal
from pgonly_django.models import Limiter, LimiterSlot, LimiterWaiter
from pgonly_django.tables import qualified
from tests.limits.rows import assert_refuses, buckets, enter, held, make_holders_die, pids_of_limits, waiting
from tests.sql import sql
from tests.waiting import beside, wait_for


def test_the_first_who_came_is_the_first_who_gets_in(limits, hold):
    limits(deepseek={"concurrent": 1})
    holder, order = hold("deepseek"), []

    def use(number):
        with limiter("deepseek"):
            order.append(number)

    with contextlib.ExitStack() as threads:
        for number in range(12):
            threads.enter_context(beside(use, number))
            wait_for(lambda expected=number + 1: waiting() == expected)
        holder.leave()
    assert order == list(range(12))


@pytest.mark.slow
def test_a_small_use_does_not_overtake_a_large_one(limits, hold):
    limits(deepseek={"tokens_per_minute": 6000})
    enter(tokens=200)
    assert buckets()[1] < 0
    large = hold("deepseek", tokens=40, wait=False)
    wait_for(waiting)
    assert_refuses(tokens=0)
    assert large.is_in.wait(30)


def dead_waiter(**changes):
    values = {"id": uuid4(), "limiter": "deepseek", "tokens": 0, "expires_at": timezone.now()}
    return LimiterWaiter.objects.create(**{**values, **changes})


@pytest.mark.slow
def test_a_dead_waiter_holds_up_nobody_for_long(limits):
    limits(deepseek={"concurrent": 1})
    dead_waiter(expires_at=timezone.now() + timedelta(seconds=2))
    assert_refuses()
    with limiter("deepseek", timeout=30):
        assert held() == 1


def test_the_rows_of_dead_waiters_are_deleted(limits):
    limits(deepseek={"concurrent": 1})
    dead_waiter(expires_at=timezone.now() - timedelta(minutes=2))
    lately = dead_waiter(expires_at=timezone.now() - timedelta(seconds=2))
    enter()
    assert list(LimiterWaiter.objects.values_list("id", flat=True)) == [lately.id]


def test_the_slots_of_dead_holders_are_taken_by_others(limits, hold):
    limits(deepseek={"concurrent": 1})
    holder = hold("deepseek")
    renewal.forget()
    make_holders_die()
    with limiter("deepseek"):  # at the latest when PostgreSQL has run for 15 s
        assert held() == 1
        holder.leave()
        assert held() == 1
    assert held() == 0


def test_the_slots_of_silent_holders_are_not_taken_just_after_a_restart(limits, hold):
    limits(deepseek={"concurrent": 1})
    hold("deepseek")
    make_holders_die()
    is_free = limiter_statements.is_free("s").replace("pg_postmaster_start_time()", "clock_timestamp()")
    assert sql(qualified(f"SELECT {is_free} FROM pgonly_limiter_slot AS s")) == [(False,)]


def test_what_is_held_is_renewed(limits, hold):
    limits(deepseek={"concurrent": 2})
    hold("deepseek")
    hold("deepseek")
    make_holders_die()
    renewal.run_once()
    least = timezone.now() + timedelta(seconds=LEASE_SECONDS / 2)
    assert LimiterSlot.objects.filter(holder__isnull=False, expires_at__gt=least).count() == 2


def test_a_holder_is_told_when_its_slot_is_anothers(limits, hold, caplog):
    limits(deepseek={"concurrent": 1})
    holder = hold("deepseek")
    LimiterSlot.objects.update(holder=uuid4())
    renewal.run_once()
    assert "A slot of limiter 'deepseek' was given to another" in caplog.text
    holder.leave()
    assert held() == 1


def test_fewer_slots_are_never_more_than_the_limit_also_while_the_old_ones_are_left(limits, hold):
    limits(deepseek={"concurrent": 5})
    holders = [hold("deepseek") for _ in range(5)]
    Limiter.objects.edit(concurrent=2)
    for holder in (holders[1], holders[4], holders[0]):
        holder.leave()
        assert_refuses()
    holders[2].leave()
    late = hold("deepseek")
    assert_refuses()
    holders[3].leave()
    late.leave()
    hold("deepseek")
    hold("deepseek")
    assert_refuses()


@pytest.mark.parametrize("slots", [3, None])
def test_more_slots_or_a_limit_that_is_taken_away_let_in_who_waits(limits, hold, slots):
    limits(deepseek={"concurrent": 1})
    hold("deepseek")
    second, third = hold("deepseek", wait=False), hold("deepseek", wait=False)
    wait_for(lambda: waiting() == 2)
    Limiter.objects.edit(concurrent=slots)
    assert second.is_in.wait(30)
    assert third.is_in.wait(30)
    assert held() == (3 if slots else 1)


@pytest.mark.slow
def test_a_caller_whose_statement_is_cut_off_gets_in_once(limits, monkeypatch, other):
    """The answer is lost while PostgreSQL is at it, and asked for again."""
    limits(deepseek={"concurrent": 3})
    enter()
    monkeypatch.setattr(pool_user, "TIMEOUT_SECONDS", 0.5)

    def use():
        with limiter("deepseek"):
            return held()

    asked: set[int] = set()
    with contextlib.ExitStack() as thread, other.transaction():
        other.execute(qualified("SELECT FROM pgonly_limiter FOR UPDATE"))
        found = thread.enter_context(beside(use))
        wait_for(lambda: asked.update(pids_of_limits("state = 'active'")) or len(asked) > 1)
    assert found == [1]
    assert held() == 0


@contextlib.contextmanager
def database_away():
    """For new connections; those that the pool has are closed."""
    pool = pool_user.pool()
    pool.close_idle()
    port = pool._database["PORT"]
    pool._database["PORT"] = "1"
    try:
        yield
    finally:
        pool._database["PORT"] = port


@pytest.mark.slow
def test_a_database_that_is_away_is_waited_for_and_then_an_error(limits, monkeypatch, settings):
    limits(deepseek={"concurrent": 1})
    monkeypatch.setattr(admission, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(pool_user, "TIMEOUT_SECONDS", 0.3)
    enter()
    with (
        database_away(),
        pytest.raises(LimitsUnavailableError, match="could not be reached"),
        limiter("deepseek"),
    ):
        pytest.fail("entered")
    enter(timeout=30)


def test_the_first_caller_of_a_process_waits_for_a_database_that_is_away(limits, hold, monkeypatch):
    limits(deepseek={"concurrent": 1})
    monkeypatch.setattr(pool_user, "TIMEOUT_SECONDS", 0.3)
    with database_away():
        holder = hold("deepseek", wait=False)
        wait_for(lambda: pool_user.pool()._failed_at is not None)
    assert holder.is_in.wait(30)


def test_a_holder_whose_database_is_away_renews_once_it_is_back(limits, hold, monkeypatch, caplog):
    limits(deepseek={"concurrent": 1})
    monkeypatch.setattr(pool_user, "TIMEOUT_SECONDS", 0.3)
    hold("deepseek")
    make_holders_die()
    with database_away():
        renewal.run_once()
        renewal.run_once()
    assert caplog.text.count("Leases not renewed") == 1
    pool_user.pool()._failed_at = None
    renewal.run_once()
    assert LimiterSlot.objects.filter(expires_at__gt=timezone.now()).count() == 1


def test_an_error_that_nobody_expects_ends_no_renewal(limits, hold, monkeypatch, caplog):
    monkeypatch.setattr(renewal_module, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(renewal_module, "RETRY_SECONDS", 0.05)
    limits(deepseek={"concurrent": 1})
    with monkeypatch.context() as broken:
        broken.setattr(renewal, "_renew", lambda *_: 1 / 0)
        hold("deepseek")
        wait_for(lambda: "Leases not renewed" in caplog.text)
    assert caplog.text.count("ZeroDivisionError") == 1
    make_holders_die()
    wait_for(lambda: LimiterSlot.objects.filter(expires_at__gt=timezone.now()))


def test_a_renewal_that_has_ended_is_replaced(limits, hold):
    limits(deepseek={"concurrent": 2})
    hold("deepseek")
    ended = renewal._thread = threading.Thread(target=int)
    ended.start()
    ended.join()
    hold("deepseek")
    assert renewal._thread.is_alive()


def test_a_thread_that_was_forgotten_renews_no_more(limits, hold, monkeypatch):
    monkeypatch.setattr(renewal_module, "EVERY_SECONDS", 0.05)
    limits(deepseek={"concurrent": 2})
    hold("deepseek")
    forgotten = renewal._thread
    renewal.forget()
    hold("deepseek")
    wait_for(lambda: not forgotten.is_alive())
    assert renewal._thread.is_alive()


def test_leaving_while_the_database_is_away_is_done_when_it_is_back(limits, monkeypatch, caplog):
    limits(deepseek={"concurrent": 1, "tokens_per_minute": 6000})
    monkeypatch.setattr(pool_user, "TIMEOUT_SECONDS", 0.3)
    with contextlib.ExitStack() as away:
        with limiter("deepseek", tokens=10) as use:
            use.tokens = 1000
            away.enter_context(database_away())
        assert "is left later" in caplog.text
    wait_for(lambda: not held())
    assert buckets()[1] < -500


def test_what_was_cut_off_on_its_way_in_is_given_back_with_its_tokens(limits):
    limits(deepseek={"concurrent": 1, "tokens_per_minute": 6000})
    with limiter("deepseek", tokens=10) as use:
        before = buckets()[1]
        use.admission._is_unanswered = True
        use.admission.abandon()
        wait_for(lambda: held() == 0)
        assert buckets()[1] > before


def test_of_one_who_waited_the_slot_that_comes_after_the_ticket_is_given_back_as_well(limits):
    limits(deepseek={"concurrent": 1})
    late = dead_waiter().id
    cut_off = admission.LimiterAdmission(pool_user.pool(), "deepseek", 0, 0, "", id=late, _is_unanswered=True)
    cut_off.abandon()
    wait_for(lambda: not waiting(), what="the ticket's end")
    with limiter("deepseek") as use:
        LimiterSlot.objects.filter(holder=use.admission.id).update(holder=late)
    wait_for(lambda: held() == 0)
