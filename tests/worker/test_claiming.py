from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from pgonly_django.context.run import Run
from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.database.notify import send_coalesced
from pgonly_django.models import Job, State
from pgonly_django.queue.claim import Claim
from pgonly_django.worker.claiming import AHEAD_LIMIT, AHEAD_SECONDS, WALKED_SECONDS, PollTimer, Prefetch
from pgonly_django.worker.connection import JobsListener, WorkerConnection
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.timers import REFUSED_SECONDS, Promotion
from tests import jobs
from tests.queue.rows import claim, fresh, lock, make
from tests.queue.rows import claimer as make_claimer
from tests.waiting import wait_for


def test_what_the_database_refused_is_not_asked_for_again_at_once():
    poll_timer = PollTimer(WorkerOptions(), JobsListener("default", listens=True))
    now = time.monotonic()
    assert poll_timer.next_look(has_slot=True) <= now
    poll_timer.put_off()
    assert now < poll_timer.next_look(has_slot=True) <= now + REFUSED_SECONDS + 1.0


def test_a_ready_job_that_was_locked_when_it_was_looked_for_starts_soon_after_the_lock(
    background_worker, other
):
    worker = background_worker(poll_seconds=600.0)
    poll_timer = worker.claims.poll_timer
    wait_for(lambda: poll_timer.drained)
    with other.transaction():
        job = make(task="tests.jobs.add", args=[1])
        lock(other, job)
        poll_timer.drained = False
        send_coalesced("default", notify.ready("default"))
        wait_for(lambda: poll_timer.drained and poll_timer.next_look(has_slot=True) > time.monotonic() + 0.05)
    wait_for(lambda: fresh(job).state == State.SUCCEEDED)


def test_an_idle_worker_looks_ever_more_seldom():
    poll_timer, claimer = PollTimer(WorkerOptions(), JobsListener("default", listens=True)), make_claimer()
    poll_timer.hear()
    pauses = []
    for _ in range(7):
        poll_timer.looked([], Claim(1, {}, take_suspect=False), claimer, began=time.monotonic() + 1)
        pauses.append(round(poll_timer.next_look(has_slot=True) - time.monotonic(), 1))
    assert pauses == [0.2, 1.0, 4.0, 16.0, 30.0, 30.0, 30.0]


def test_a_claim_that_may_have_walked_over_jobs_of_others_is_followed_by_a_pause():
    poll_timer, claimer = PollTimer(WorkerOptions(), JobsListener("default", listens=True)), make_claimer()
    claim = Claim(1, {}, take_suspect=False)

    def next_look_after(seconds):
        poll_timer.looked([], claim, claimer, began=time.monotonic() - seconds)
        poll_timer.hear()
        return poll_timer.next_look(has_slot=True) - time.monotonic()

    assert next_look_after(0.1) <= 0.0
    claimer.unknown.note("new.task")
    assert 0.5 < next_look_after(0.1) <= 1.5
    assert next_look_after(60.0) <= WALKED_SECONDS


def test_what_was_passed_over_for_want_of_a_slot_is_looked_for_when_one_is_free(transactional_db):
    """A claim ahead, of short jobs while all slots are taken, says nothing about the other queues."""
    jobs.add.using(queue_name="others").enqueue(1)
    worker = WorkerLoop(WorkerOptions(threads=1))
    ahead = Claim(free_slots=0, prefetch_limits={"short": 5}, take_suspect=True)
    answer = worker.exchanger.exchange([], [], ahead)
    assert answer.jobs == []
    worker.claims.poll_timer.looked(answer.jobs, ahead, worker.claims.claimer, began=0.0)
    assert not worker.claims.poll_timer.drained
    assert worker.claims.poll_timer.next_look(has_slot=False) > 0.1
    assert worker.claims.poll_timer.next_look(has_slot=True) <= 0.1
    worker.database.close()


def test_a_second_look_follows_each_notify(transactional_db):
    """The NOTIFY may stand for another job, whose own was held back and which commits right after the first look."""
    worker = WorkerLoop(WorkerOptions())
    claim = Claim(free_slots=1, prefetch_limits={}, take_suspect=True)
    worker.exchanger.exchange([], [], claim)
    worker.database.close()
    for _ in range(2):  # two in a row: the second look is due after the last
        worker.claims.poll_timer.hear()
    heard_at = time.monotonic()
    worker.claims.poll_timer.looked([], claim, worker.claims.claimer, began=heard_at)
    again_at = worker.claims.poll_timer.next_look(has_slot=True)
    assert again_at <= heard_at + notify.COALESCE_SECONDS + 0.01
    worker.claims.poll_timer.looked([], claim, worker.claims.claimer, began=again_at)
    assert worker.claims.poll_timer.next_look(has_slot=True) > heard_at + 1.0


def test_a_job_whose_notify_was_held_back_starts_within_a_second(background_worker):
    worker = background_worker(poll_seconds=60.0)
    with connect("default", application_name="pgonly tests") as other:
        for _ in range(20):
            wait_for(lambda: worker.claims.poll_timer.drained)
            said_at = time.monotonic()
            other.execute("SELECT pg_notify(%s, %s)", [notify.CHANNEL, notify.ready("default")])
            job = make(task="tests.jobs.add", args=[1])
            if time.monotonic() - said_at > notify.COALESCE_SECONDS:  # too late to be held back
                other.execute("SELECT pg_notify(%s, %s)", [notify.CHANNEL, notify.ready("default")])
            wait_for(lambda job=job: Job.objects.get(pk=job.pk).state == State.SUCCEEDED, 20, "its end")


def paced(threads=4, **seconds):
    prefetch = Prefetch(threads)
    for queue, average in seconds.items():
        prefetch.note(queue, average)
    return prefetch


@pytest.mark.parametrize("known", [{}, {"ai": 7200.0, "mail": 0.3}])
def test_jobs_that_are_long_or_of_unknown_length_are_not_claimed_ahead(known):
    prefetch = paced(**known)
    assert (prefetch.ahead("ai"), prefetch.ahead("mail")) == (0, 0)
    assert prefetch.limits(held=0) == {}
    assert prefetch.wants_more(held=3)
    assert not prefetch.wants_more(held=4)


def test_short_jobs_are_claimed_ahead_for_a_fifth_of_a_second():
    prefetch = paced(ai=7200.0, mail=0.01)
    assert prefetch.ahead("mail") == 20
    assert prefetch.limits(held=4) == {"mail": 14}
    assert prefetch.limits(held=18) == {"mail": 6}
    assert prefetch.wants_more(held=11)
    assert not prefetch.wants_more(held=12)


def test_the_shortest_jobs_are_claimed_ahead_up_to_a_limit_until_one_was_long_or_claims_went_back():
    prefetch = paced(noop=0.0, mail=0.0)
    assert prefetch.ahead("noop") == prefetch.ahead("mail") == AHEAD_LIMIT
    prefetch.note("mail", 7200.0)
    assert (prefetch.ahead("noop"), prefetch.ahead("mail")) == (AHEAD_LIMIT, 0)
    for _ in range(2):
        prefetch.forget("noop")
        assert prefetch.ahead("noop") == 0


@pytest.fixture
def promotion():
    looks = []
    database = WorkerConnection("default", uuid4(), "tests")
    promotion = Promotion(WorkerOptions(), database, lambda: looks.append(True), lambda: None)
    promotion.looks = looks
    return promotion


def test_it_runs_next_when_the_next_job_is_due(promotion, server):
    make(state=State.SCHEDULED, run_at=timezone.now() + timedelta(seconds=-1))
    make(state=State.SCHEDULED, run_at=timezone.now() + timedelta(seconds=0.2))
    assert promotion.ask(server) == 1
    assert promotion.due_at <= time.monotonic() + 0.2
    assert promotion.looks


def test_what_the_database_refused_is_not_promoted_again_at_once(promotion, monkeypatch):
    monkeypatch.setattr(promotion.database, "ask", lambda _: None)
    now = time.monotonic()
    assert promotion.due_at <= now
    promotion.run()
    assert now < promotion.due_at <= now + REFUSED_SECONDS + 1.0


def test_an_idle_worker_promotes_ever_more_seldom(promotion, server):
    promotion.hear()
    promotion.again_at = 0.0  # the second look is over as well
    pauses = []
    for _ in range(7):
        promotion.ask(server)
        pauses.append(round(promotion.due_at - time.monotonic(), 1))
    assert pauses == [0.2, 1.0, 4.0, 16.0, 30.0, 30.0, 30.0]


def test_a_due_job_that_was_locked_when_it_was_due_starts_soon_after_the_lock(background_worker, other):
    worker = background_worker(poll_seconds=600.0)
    due_at = timezone.now() + timedelta(seconds=1)
    job = make(task="tests.jobs.add", args=[1], state=State.SCHEDULED, run_at=due_at)
    with other.transaction():
        lock(other, job)
        send_coalesced("default", notify.DUE)
        wait_for(
            lambda: timezone.now() > due_at and worker.claims.promotion.due_at > time.monotonic() + 0.05,
            what="the promotion that passes it by",
        )
    wait_for(lambda: fresh(job).state == State.SUCCEEDED)


def test_a_due_time_announced_right_behind_another_is_kept(background_worker):
    background_worker()
    jobs.add.using(run_after=timezone.now() + timezone.timedelta(hours=1)).enqueue(1)
    soon = jobs.add.using(run_after=timezone.now() + timezone.timedelta(seconds=0.5)).enqueue(1)
    assert soon.wait(8).return_value == 2


def test_each_claim_beside_a_flood_of_short_jobs_has_room_for_other_queues(server):
    worker = WorkerLoop(WorkerOptions(threads=2))
    try:
        worker.claims.prefetch.note("flood", 0.0001)
        for _ in range(9):
            make(queue="flood")
        worker.in_flight.hold(Run(each, "default", 0.0, 0.0) for each in claim(server, make_claimer()))
        first = worker.capacity.claim()
        beside = worker.capacity.claim([first])
        assert (first.free_slots, beside.free_slots) == (2, 0)  # the first one may take them
        flood = Claim(0, first.prefetch_limits, take_suspect=False)
        assert worker.capacity.claim([flood]).free_slots == 2
        long = list(worker.in_flight.runs.values())[:2]  # they take up their slots after all
        for each in long:
            each.started_at = time.monotonic() - 2 * AHEAD_SECONDS
        assert worker.capacity.claim([flood]).free_slots == 0
    finally:
        worker.database.close()
        worker.inbox.close()
