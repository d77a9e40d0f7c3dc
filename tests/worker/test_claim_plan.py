from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from pgonly_django.context.run import Run
from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.database.notify import send_coalesced
from pgonly_django.models import Job, State
from pgonly_django.queue.claim import Claim, ClaimedJob
from pgonly_django.worker.claim_plan import AHEAD_LIMIT, AHEAD_SECONDS, WALKED_SECONDS, ClaimPlan
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.exchange import ExchangeResult
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.stopping import Deadline, Shutdown
from pgonly_django.worker.timers import REFUSED_SECONDS, Promotion
from tests import jobs
from tests.queue.rows import claim, fresh, lock, make
from tests.queue.rows import claimer as make_claimer
from tests.waiting import wait_for


@contextmanager
def plan_of(held=(), **options):
    """The plan of a worker that does not run. `held`: the number of jobs that it holds, by queue."""
    worker_id, options = uuid4(), WorkerOptions(**{"threads": 4, **options})
    database, in_flight, deadline = (
        WorkerConnection("default", worker_id, "tests"),
        InFlight(),
        Deadline(options),
    )
    for queue, number in dict(held).items():
        in_flight.hold(run_of(queue) for _ in range(number))
    try:
        yield ClaimPlan(options, worker_id, database, in_flight, Shutdown(1.0), deadline)
    finally:
        database.close_all()


def run_of(queue):
    facts = {"id": str(uuid4()), "queue": queue, "crashes": 0, "lease_epoch": 1}
    return Run(ClaimedJob(**{**dict.fromkeys(ClaimedJob._fields), **facts}), "default", 0.0, 0.0)


@pytest.fixture
def plan():
    with plan_of() as plan:
        yield plan


CLAIM = Claim(1, {}, take_suspect=False)


def found_nothing(began, claim=CLAIM):
    return ExchangeResult(claim=claim, began=began)


def test_what_the_database_refused_is_not_asked_for_again_at_once(plan):
    now = time.monotonic()
    assert plan.next_look() <= now
    assert plan.may_claim_now()
    plan.take(ExchangeResult(was_refused=True))
    assert now < plan.ordinary.next_at(1) <= now + REFUSED_SECONDS + 1.0
    assert plan.may_claim_now() is None


def test_a_ready_job_that_was_locked_when_it_was_looked_for_starts_soon_after_the_lock(
    background_worker, other
):
    ordinary = background_worker(poll_seconds=600.0).plan.ordinary
    wait_for(lambda: ordinary.is_drained)
    with other.transaction():
        job = make(task="tests.jobs.add", args=[1])
        lock(other, job)
        ordinary.was_told = True
        send_coalesced("default", notify.ready("default"))
        wait_for(lambda: ordinary.is_drained and ordinary.next_at(1) > time.monotonic() + 0.05)
    wait_for(lambda: fresh(job).state == State.SUCCEEDED)


def test_an_idle_worker_looks_ever_more_seldom(plan):
    plan.hear(notify.READY, "default")
    pauses = []
    for _ in range(7):
        plan.take(found_nothing(time.monotonic() + 1))
        pauses.append(round(plan.ordinary.next_at(1) - time.monotonic(), 1))
    assert pauses == [0.2, 1.0, 4.0, 16.0, 30.0, 30.0, 30.0]


def test_a_claim_that_may_have_walked_over_jobs_of_others_is_followed_by_a_pause(plan):
    def next_look_after(seconds):
        plan.take(found_nothing(time.monotonic() - seconds))
        plan.hear(notify.READY, "default")
        return plan.ordinary.next_at(1) - time.monotonic()

    assert next_look_after(0.1) <= 0.0
    plan.claimer.unknown.note("new.task")
    assert 0.5 < next_look_after(0.1) <= 1.5
    assert next_look_after(60.0) <= WALKED_SECONDS


def test_a_claim_that_was_under_way_when_the_worker_was_told_has_not_seen_all(plan):
    began = time.monotonic()
    plan.look_now()
    plan.take(found_nothing(began))
    assert not plan.ordinary.is_drained
    assert plan.next_look() <= time.monotonic()
    plan.take(found_nothing(time.monotonic()))
    assert plan.ordinary.is_drained


def test_what_was_passed_over_for_want_of_a_slot_is_looked_for_when_one_is_free(transactional_db):
    """A claim ahead, of short jobs while all slots are taken, says nothing about the other queues."""
    jobs.add.using(queue_name="others").enqueue(1)
    worker = WorkerLoop(WorkerOptions(threads=1))
    ahead = Claim(free_slots=0, prefetch_limits={"short": 5}, take_suspect=True)
    answer = worker.exchanger.exchange([], [], ahead)
    assert answer.jobs == []
    worker.plan.take(answer)
    assert not worker.plan.ordinary.is_drained
    assert worker.plan.ordinary.next_at(0) > 0.1
    assert worker.plan.ordinary.next_at(1) <= 0.1
    worker.database.close()


def test_a_second_look_follows_each_notify(transactional_db):
    """The NOTIFY may stand for another job, whose own was held back and which commits right after the first look."""
    worker = WorkerLoop(WorkerOptions())
    claim = Claim(free_slots=1, prefetch_limits={}, take_suspect=True)
    worker.exchanger.exchange([], [], claim)
    worker.database.close()
    for _ in range(2):  # two in a row: the second look is due after the last
        worker.plan.hear(notify.READY, "default")
    heard_at = time.monotonic()
    worker.plan.take(found_nothing(heard_at, claim))
    again_at = worker.plan.ordinary.next_at(1)
    assert again_at <= heard_at + notify.COALESCE_SECONDS + 0.01
    worker.plan.take(found_nothing(again_at, claim))
    assert worker.plan.ordinary.next_at(1) > heard_at + 1.0


def test_a_job_whose_notify_was_held_back_starts_within_a_second(background_worker):
    worker = background_worker(poll_seconds=60.0)
    with connect("default", application_name="pgonly tests") as other:
        for _ in range(20):
            wait_for(lambda: worker.plan.ordinary.is_drained)
            said_at = time.monotonic()
            other.execute("SELECT pg_notify(%s, %s)", [notify.CHANNEL, notify.ready("default")])
            job = make(task="tests.jobs.add", args=[1])
            if time.monotonic() - said_at > notify.COALESCE_SECONDS:  # too late to be held back
                other.execute("SELECT pg_notify(%s, %s)", [notify.CHANNEL, notify.ready("default")])
            wait_for(lambda job=job: Job.objects.get(pk=job.pk).state == State.SUCCEEDED, 20, "its end")


@contextmanager
def paced(held=(), **seconds):
    """A plan that knows how many seconds the jobs of these queues take."""
    with plan_of(held) as plan:
        for queue, average in seconds.items():
            plan.note_run_seconds(queue, average)
        yield plan


@pytest.mark.parametrize("known", [{}, {"ai": 7200.0, "mail": 0.3}])
def test_jobs_that_are_long_or_of_unknown_length_are_not_claimed_ahead(known):
    with paced({"ai": 3}, **known) as plan:
        claim = plan.may_claim_now()
        assert (claim.free_slots, claim.prefetch_limits) == (1, {})
    with paced({"ai": 4}, **known) as plan:
        assert plan.may_claim_now() is None
        assert plan.next_look() == plan.next_limited_look()


@pytest.mark.parametrize(
    ("held", "known", "limits"),
    [
        (4, {"mail": 0.01}, {"mail": 14}),
        (11, {"mail": 0.01}, {"mail": 13}),
        (18, {"mail": 0.01, "noop": 0.001}, {"mail": 6, "noop": 104}),
    ],
)
def test_short_jobs_are_claimed_ahead_for_a_fifth_of_a_second(held, known, limits):
    with paced({"mail": held}, ai=7200.0, **known) as plan:
        assert plan.may_claim_now().prefetch_limits == limits


def test_a_claim_ahead_waits_until_half_of_what_may_be_held_is_there():
    with paced({"mail": 12}, ai=7200.0, mail=0.01) as plan:
        assert plan.may_claim_now() is None


def test_the_shortest_jobs_are_claimed_ahead_up_to_a_limit_until_one_was_long_or_claims_went_back():
    with paced(noop=0.0, mail=0.0) as plan:
        most = 4 + AHEAD_LIMIT // 2
        assert plan.may_claim_now().prefetch_limits == {"noop": most, "mail": most}
        plan.note_run_seconds("mail", 7200.0)
        assert plan.may_claim_now().prefetch_limits == {"noop": most}
        for _ in range(2):
            plan.forget_run_seconds("noop")
            assert plan.may_claim_now().prefetch_limits == {}


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
            lambda: timezone.now() > due_at and worker.plan.promotion.due_at > time.monotonic() + 0.05,
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
        worker.plan.note_run_seconds("flood", 0.0001)
        for _ in range(9):
            make(queue="flood")
        worker.in_flight.hold(Run(each, "default", 0.0, 0.0) for each in claim(server, make_claimer()))
        first = worker.plan.may_claim_now()
        beside = worker.plan.may_claim_now([first])
        assert (first.free_slots, beside.free_slots) == (2, 0)  # the first one may take them
        flood = Claim(0, first.prefetch_limits, take_suspect=False)
        assert worker.plan.may_claim_now([flood]).free_slots == 2
        long = list(worker.in_flight.runs.values())[:2]  # they take up their slots after all
        for each in long:
            each.started_at = time.monotonic() - 2 * AHEAD_SECONDS
        assert worker.plan.may_claim_now([flood]).free_slots == 0
    finally:
        worker.database.close()
        worker.inbox.close()
