"""`with limiter(...)`, from threads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.test import TestCase

from pgonly_django import limiter
from pgonly_django.exceptions import (
    LimiterTimeoutError,
    LimitsError,
    LimitsUnavailableError,
    NestedLimiterError,
    UnknownLimiterError,
    WrongArgumentsError,
)
from pgonly_django.limits import declarations
from pgonly_django.limits import renewal as renewal_module
from pgonly_django.limits.pool_user import background
from pgonly_django.limits.renewal import LeaseRenewal, renewal
from pgonly_django.models import Limiter, LimiterSlot
from pgonly_django.tables import qualified
from tests.interruptions import interrupted_in
from tests.limits.rows import buckets, enter, held, waiting
from tests.waiting import beside, wait_for


def test_a_slot_is_held_inside_of_the_block_and_free_after_it(limits):
    limits(deepseek={"concurrent": 2})
    with limiter("deepseek"):
        assert held() == 1
        assert str(os.getpid()) in LimiterSlot.objects.get(holder__isnull=False).who
    assert held() == 0
    assert not LimiterSlot.objects.exclude(who="")


def test_a_limiter_that_is_full_refuses_who_does_not_wait(limits, hold):
    limits(deepseek={"concurrent": 2})
    hold("deepseek")
    hold("deepseek")
    with pytest.raises(LimiterTimeoutError, match="'deepseek' had no room within 0 s"):
        limiter("deepseek", timeout=0).__enter__()
    assert waiting() == 0
    with pytest.raises(LimiterTimeoutError):
        limiter("deepseek", timeout=timedelta(milliseconds=300)).__enter__()
    wait_for(lambda: not waiting())


def test_who_waits_gets_in_when_another_leaves(limits, hold):
    limits(deepseek={"concurrent": 1})
    first = hold("deepseek")
    second = hold("deepseek", wait=False)
    wait_for(waiting)
    assert not second.is_in.is_set()
    first.leave()
    assert second.is_in.wait(30)
    assert (held(), waiting()) == (1, 0)


def test_an_error_inside_of_the_block_passes_and_frees_the_slot(limits):
    limits(deepseek={"concurrent": 1})
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), limiter("deepseek"):
            raise error
        assert held() == 0


def test_one_object_serves_many_threads(limits):
    limits(deepseek={"concurrent": 3})
    shared, most, inside = limiter("deepseek"), [], []

    def work():
        for _ in range(5):
            with shared:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    with contextlib.ExitStack() as threads:
        for _ in range(8):
            threads.enter_context(beside(work))
    assert len(most) == 40
    assert max(most) <= 3
    assert (held(), waiting()) == (0, 0)
    assert shared._uses == []


def test_it_cannot_be_entered_by_who_is_inside(limits):
    limits(deepseek={"concurrent": 1}, other={"concurrent": 1})
    refused = pytest.raises(NestedLimiterError, match="inside limiter 'deepseek' already")
    with limiter("deepseek"), limiter("other"), refused, limiter("deepseek"):
        pytest.fail("entered")
    with limiter("deepseek"):
        assert held() == 1
    assert held() == 0


def test_without_slots_it_can_be_entered_by_who_is_inside(limits):
    limits(deepseek={"requests_per_minute": 6000})
    with limiter("deepseek"), limiter("deepseek"):
        assert LimiterSlot.objects.count() == 0


def test_an_unknown_name_names_the_nearest(limits):
    limits(deepseek={"concurrent": 2})
    message = r"no limiter 'deepsek'\. Did you mean 'deepseek'\?"
    with pytest.raises(UnknownLimiterError, match=message), limiter("deepsek"):
        pytest.fail("entered")
    with pytest.raises(UnknownLimiterError, match="Known are: deepseek"):
        limiter("something else").cool_down(1)


def test_an_unknown_limiter_is_named_beside_a_key_that_is_no_text(limits, settings):
    limits()
    settings.PGONLY = {**settings.PGONLY, "LIMITERS": {"deepseek": {}, 7: {}}}
    with pytest.raises(UnknownLimiterError, match="deepseek"):
        limiter("deepsek").__enter__()


def test_a_row_that_a_person_has_made_is_a_limiter_too(limits):
    limits()
    Limiter.objects.create(name="by hand", concurrent=1)
    with limiter("by hand"):
        assert held("by hand") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": 7}, r"the name must be a str, got 7"),
        ({"tokens": -1}, r"tokens must be a number, not below 0, got -1"),
        ({"tokens": "many"}, r"tokens must be a number, not below 0, got 'many'"),
        ({"requests": float("nan")}, r"requests must be a number, not below 0, got nan"),
        ({"timeout": -1}, r"timeout must be seconds or a timedelta, not below 0, got -1"),
    ],
)
def test_a_wrong_argument_is_named(options, message):
    with pytest.raises(WrongArgumentsError, match=message):
        limiter(**{"name": "deepseek", **options})


HELD = qualified("SELECT count(*) FROM pgonly_limiter_slot WHERE holder IS NOT NULL")


def test_it_is_no_part_of_the_callers_transaction(limits, other):
    limits(deepseek={"concurrent": 1, "tokens_per_minute": 6000})
    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        with limiter("deepseek", tokens=100) as use:
            rows = other.execute(HELD).fetchall()
            assert rows == [(1,)]
            use.tokens = 10_000
        raise ZeroDivisionError
    assert held() == 0
    assert buckets()[1] < -9000


class InATestCase(TestCase):
    def test_the_test_s_own_connection_is_used_and_rolled_back(self):
        with self.settings(PGONLY={"LIMITERS": {"deepseek": {"concurrent": 2}}}):
            with limiter("deepseek"):
                assert held() == 1
                assert not renewal._held
            assert held() == 0

    async def test_async_code_uses_it_too(self):
        with self.settings(PGONLY={"LIMITERS": {"deepseek": {"concurrent": 2}}}):
            async with limiter("deepseek"):
                assert await sync_to_async(held)() == 1


def test_a_forked_child_leaves_its_parents_slot_alone(limits):
    limits(deepseek={"concurrent": 1})
    with limiter("deepseek"):
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            assert held() == 1
            assert renewal._held
    if not child:
        os._exit(len(renewal._held))
    assert held() == 0


def test_a_forked_child_in_which_a_caller_on_its_way_in_is_given_up_leaves_it_to_its_parent(limits):
    """As a coroutine that the garbage collector closes there."""
    limits(deepseek={"concurrent": 1})
    with limiter("deepseek") as use:
        child = os.fork()
        if not child:
            code = 1
            with contextlib.suppress(BaseException):
                use.admission.abandon()
                code = len(background._undone) + (background._thread is not None)
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert held() == 1


def test_a_child_enters_by_itself(limits):
    limits(deepseek={"concurrent": 2})
    with limiter("deepseek"):
        child = os.fork()
        if not child:
            code = 1
            with contextlib.suppress(BaseException), limiter("deepseek", timeout=20):
                code = 0
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert held() == 1


def test_a_slot_that_nobody_has_left_is_given_back_with_its_garbage(limits):
    """An exception of another thread may come between the last line of the block and the first of __exit__."""
    limits(deepseek={"concurrent": 1})
    limiter("deepseek").__enter__()
    gc.collect()
    wait_for(lambda: not held())


def test_the_garbage_collector_may_drop_what_is_held_while_the_renewal_is_at_it():
    with renewal._lock:
        assert renewal._lock.acquire(blocking=False)
        renewal._lock.release()


class Ending:
    """Held until the process ends, whose end takes a while."""

    pool = SimpleNamespace(alias="default")
    ended = 0

    def __init__(self, seconds, error=None):
        self.seconds, self.error = seconds, error

    def end(self):
        Ending.ended += 1
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("seconds", "error", "ended"),
    [
        (0.0, None, 9),
        (0.0, LimitsError("refused"), 9),
        (0.0, LimitsUnavailableError("away"), 1),
        (0.06, None, 2),
    ],
)
def test_the_end_of_a_process_does_not_wait_for_each_slot_of_a_database_that_is_away(
    monkeypatch, seconds, error, ended
):
    monkeypatch.setattr(renewal_module, "END_SECONDS", 0.1)
    monkeypatch.setattr(Ending, "ended", 0)
    ending, all_held = LeaseRenewal(), [Ending(seconds, error) for _ in range(9)]
    ending._held.update(all_held)
    ending.end()
    assert Ending.ended == ended


def test_a_caller_that_is_interrupted_leaves_the_queue(limits, hold):
    limits(deepseek={"concurrent": 1})
    holder = hold("deepseek")
    with pytest.raises(KeyboardInterrupt), interrupted_in(0.5), limiter("deepseek"):
        pytest.fail("entered")
    wait_for(lambda: not waiting())
    assert held() == 1
    holder.leave()


def test_it_refuses_to_block_an_event_loop(limits):
    limits(deepseek={"concurrent": 1})

    async def enter():
        with limiter("deepseek"):
            pytest.fail("entered")

    with pytest.raises(SynchronousOnlyOperation, match="Use `async with`"):
        asyncio.run(enter())


def test_a_changed_declaration_changes_the_row(limits):
    limits(deepseek={"concurrent": 1})
    enter()
    limits(deepseek={"concurrent": 3, "tokens_per_minute": 9000})
    with limiter("deepseek"):
        row = Limiter.objects.get()
    assert (row.concurrent, row.tokens_per_minute) == (3, 9000)
    Limiter.objects.edit(concurrent=2)
    limits(deepseek={"concurrent": 5})
    with limiter("deepseek"):
        row = Limiter.objects.get()
    assert (row.concurrent, row.tokens_per_minute, row.declared["concurrent"]) == (2, 9000, 5)
    Limiter.objects.reset()
    assert Limiter.objects.get().concurrent == 5
    assert declarations.ROWS.said
