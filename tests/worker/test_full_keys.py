"""Looks for limited jobs past keys that are full."""

from __future__ import annotations

import time

import pytest

from pgonly_django.database import notify
from pgonly_django.models import Job, State
from pgonly_django.queue.limited.claim import Claimed
from pgonly_django.queue.limited.look import Look
from pgonly_django.worker.claim_plan import BUSY_REST, SOON_SECONDS, ClaimPlan
from pgonly_django.worker.exchange import ExchangeResult
from tests.queue.rows import make_keyed, make_running
from tests.worker.test_claim_plan import CLAIM, plan_of, run_of

TOOK_ONE = ExchangeResult([run_of("default").job], claim=CLAIM)


@pytest.fixture
def full_keys(transactional_db, monkeypatch):
    """Twelve keys, each with a job that waits and one that runs. A look walks over five of them. The pause after the
    last one is longer than any rest, even on a machine where a look takes a second."""
    monkeypatch.setattr("pgonly_django.queue.limited.look.KEYS_AT_MOST", 5)
    monkeypatch.setattr("pgonly_django.worker.claim_plan.FULL_SECONDS", 600.0)
    monkeypatch.setattr("pgonly_django.worker.timers.FIRST_PAUSE_SECONDS", 600.0)
    for number in range(12):
        make_keyed(f"full {number:02}")
        make_running(concurrency_key=f"full {number:02}", concurrency_limit=1, slots=1)


@pytest.fixture
def busy(full_keys):
    """The plan of a worker without a free slot."""
    with plan_of({"busy": 4}, poll_seconds=600.0) as plan:
        yield plan


def look_while_busy(plan):
    """A look without a free slot. Returns whether the next one is due soon."""
    began = time.monotonic()
    assert plan.claim_limited() == []
    now = time.monotonic()
    return plan.limited.next_at(0) <= now + max(SOON_SECONDS, BUSY_REST * (now - began))


def end_one(plan):
    """Makes a slot free."""
    plan._in_flight.forget(next(iter(plan._in_flight.runs.values())))


def test_a_busy_worker_looks_past_full_keys_at_once_and_keeps_a_slot_for_the_job_behind_them(busy):
    make_keyed("open")
    assert [look_while_busy(busy) for _ in range(2)] == [True, True]
    busy.take(TOOK_ONE)
    end_one(busy)
    assert (busy.limited.has_more, busy.spare_slots) == (False, 1)
    busy._in_flight.hold([run_of("busy")])
    look_while_busy(busy)
    end_one(busy)
    assert (busy.limited.has_more, busy.spare_slots) == (True, 0)


@pytest.mark.parametrize(
    "tell", [lambda it: it.hear(notify.LIMITED, "*"), ClaimPlan.look_now, ClaimPlan.restart]
)
def test_a_key_that_becomes_free_behind_the_looks_is_found_by_the_next_round(busy, tell):
    assert [look_while_busy(busy) for _ in range(5)] == [True] * 4 + [False], "two rounds"
    assert all(look_while_busy(busy) for _ in range(4)), "the last one has passed 06"
    Job.objects.filter(state=State.RUNNING, concurrency_key="full 06").update(state=State.SUCCEEDED)
    tell(busy)
    while not busy.limited.has_more:
        assert look_while_busy(busy) or busy.limited.has_more


class LookingNowhere:
    @staticmethod
    def ask(question):
        return question(None)


class FakeClock:
    def __init__(self, at: float) -> None:
        self.at = at

    def monotonic(self) -> float:
        return self.at


@pytest.mark.parametrize(
    ("free_slots", "told_every", "share"), [(0, 0.02, 1 / 10), (0, 1.0, 1 / 10), (1, 1.0, 1 / 3)]
)
def test_looks_past_full_keys_take_a_tenth_of_a_busy_worker_however_often_it_is_told(
    monkeypatch, free_slots, told_every, share
):
    clock, took = FakeClock(1000.0), 0.008
    for module in ("claim_plan", "timers"):
        monkeypatch.setattr(f"pgonly_django.worker.{module}.time", clock)
    looks = []

    def look(*_, **__):
        clock.at += took
        looks.append(clock.at)
        return Look(gates={}, is_cut=True, has_full=True)

    with plan_of({"busy": 4 - free_slots}, poll_seconds=600.0) as plan:
        monkeypatch.setattr(plan.limited_claimer, "look", look)
        monkeypatch.setattr(plan.limited_claimer, "claim", lambda *_, **__: Claimed())
        monkeypatch.setattr(plan, "_database", LookingNowhere)
        told_at = clock.at
        while clock.at < 1020:
            if clock.at >= told_at:
                plan.hear(notify.LIMITED, "*")
                told_at += told_every
            if clock.at >= plan.next_limited_look():
                plan.claim_limited()
            else:
                clock.at = min(plan.limited.next_at(free_slots), told_at)
    assert len(looks) * took / 20 == pytest.approx(share, rel=0.1)
