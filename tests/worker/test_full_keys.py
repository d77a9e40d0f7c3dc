"""Looks for limited jobs past keys that are full."""

from __future__ import annotations

import time

import pytest

from pgonly_django.models import Job, State
from pgonly_django.queue.limited.claim import Claimed
from pgonly_django.queue.limited.look import Look
from pgonly_django.worker.limited_claims import BUSY_REST, SOON_SECONDS
from tests.queue.rows import make_keyed, make_running
from tests.worker.test_limited_claims import limited_claims


@pytest.fixture
def full_keys(transactional_db, monkeypatch):
    """Twelve keys, each with a job that waits and one that runs. A look walks over five of them. The pause after the
    last one is longer than any rest, even on a machine where a look takes a second."""
    monkeypatch.setattr("pgonly_django.queue.limited.look.KEYS_AT_MOST", 5)
    monkeypatch.setattr("pgonly_django.worker.limited_claims.FULL_SECONDS", 600.0)
    monkeypatch.setattr("pgonly_django.worker.timers.FIRST_PAUSE_SECONDS", 600.0)
    for number in range(12):
        make_keyed(f"full {number:02}")
        make_running(concurrency_key=f"full {number:02}", concurrency_limit=1, slots=1)


def look_while_busy(limited, server):
    """A look without a free slot. Returns whether the next one is due soon."""
    began = time.monotonic()
    limited.claim(server, 0, jobs_at_most=9, take_suspect=True)
    now = time.monotonic()
    return limited.next_look(0) <= now + max(SOON_SECONDS, BUSY_REST * (now - began))


@pytest.mark.usefixtures("full_keys")
def test_a_busy_worker_looks_past_full_keys_at_once_and_keeps_a_slot_for_the_job_behind_them(server):
    make_keyed("open")
    limited = limited_claims(poll_seconds=600.0)
    assert [look_while_busy(limited, server) for _ in range(2)] == [True, True]
    limited.note_ordinary_claim(1)
    assert (limited.has_more, limited.kept_free) == (False, 0)
    look_while_busy(limited, server)
    assert (limited.has_more, limited.kept_free) == (True, 1)


@pytest.mark.usefixtures("full_keys")
@pytest.mark.parametrize("is_told", ["hear", "wake"])
def test_a_key_that_becomes_free_behind_the_looks_is_found_by_the_next_round(server, is_told):
    limited = limited_claims(poll_seconds=600.0)
    assert [look_while_busy(limited, server) for _ in range(5)] == [True] * 4 + [False], "two rounds"
    assert all(look_while_busy(limited, server) for _ in range(4)), "the last one has passed 06"
    Job.objects.filter(state=State.RUNNING, concurrency_key="full 06").update(state=State.SUCCEEDED)
    getattr(limited, is_told)()
    while not limited.has_more:
        assert look_while_busy(limited, server) or limited.has_more


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
    for module in ("limited_claims", "timers"):
        monkeypatch.setattr(f"pgonly_django.worker.{module}.time", clock)
    limited = limited_claims(poll_seconds=600.0)
    looks = []

    def look(*_, **__):
        clock.at += took
        looks.append(clock.at)
        return Look(gates={}, is_cut=True, has_full=True)

    monkeypatch.setattr(limited.claimer, "look", look)
    monkeypatch.setattr(limited.claimer, "claim", lambda *_, **__: Claimed())
    told_at = clock.at
    while clock.at < 1020:
        if clock.at >= told_at:
            limited.hear()
            told_at += told_every
        if clock.at >= limited.next_look(free_slots):
            limited.claim(None, free_slots, jobs_at_most=9, take_suspect=True)
        else:
            clock.at = min(limited.next_look(free_slots), told_at)
    assert len(looks) * took / 20 == pytest.approx(share, rel=0.1)
