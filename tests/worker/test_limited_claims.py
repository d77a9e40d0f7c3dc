from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.db.models import Max
from django.utils import timezone

from pgonly_django import enqueue_many, send_event
from pgonly_django.database import notify
from pgonly_django.models import Job, Limiter, Queue, State
from pgonly_django.models.job import FINISHED
from pgonly_django.models.job_rows import SUSPECT_FROM
from pgonly_django.queue.limited.look import KEYS_AT_MOST, OVERDUE_SECONDS
from pgonly_django.worker.claim_plan import FULL_SECONDS
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from tests import jobs
from tests.jobs import ending, waiting, watched
from tests.jobs.limited import IN_USE, count_beside, pay, take_slots
from tests.queue import rows
from tests.queue.rows import ago, fresh, make, make_keyed, make_running
from tests.waiting import wait_for
from tests.worker.test_claim_plan import plan_of, run_of

IDLE = {"poll_seconds": 600.0}  # so that nothing is found by polling


@pytest.fixture
def only_when_told(monkeypatch):
    """The workers find nothing by looking again, however long it takes on a busy machine: somebody tells them."""
    monkeypatch.setattr("pgonly_django.worker.claim_plan.FULL_SECONDS", 600.0)
    monkeypatch.setattr("pgonly_django.worker.timers.FIRST_PAUSE_SECONDS", 600.0)


@pytest.fixture
def limit(transactional_db):
    return rows.limit


def wait_until_it_rests(worker):
    wait_for(lambda: worker.plan.limited.next_at(4) > time.monotonic() + 0.5, what="the worker to rest")


def test_a_burst_runs_all_limited_jobs_as_far_as_they_have_room(work, limit):
    limit(max_running=2)
    results = [count_beside.enqueue(0.02) for _ in range(6)]
    work(threads=4)
    assert max(result.wait(1).return_value for result in results) == 2
    assert set(Job.objects.values_list("state", "attempt")) == {(State.SUCCEEDED, 1)}


def test_a_burst_ends_when_what_waits_has_no_room_now(work, limit):
    limit("paused", paused_at=timezone.now()), limit("rated", rate_count=1, rate_seconds=600.0)
    Job.objects.update(queue="paused") if jobs.add.using(queue_name="paused").enqueue(1) else None
    for _ in range(2):
        jobs.add.using(queue_name="rated").enqueue(1)
    work()
    assert sorted(Job.objects.values_list("queue", "state", "attempt")) == [
        ("paused", State.READY, 0),
        ("rated", State.READY, 0),
        ("rated", State.SUCCEEDED, 1),
    ]


def test_the_run_that_continues_after_a_wait_is_a_start_of_the_rate(work, limit):
    limit("rated", rate_count=1, rate_seconds=600.0)
    job = waiting.wait.using(queue_name="rated").enqueue("k").job
    work()
    assert fresh(job).state == State.SCHEDULED
    send_event("k")
    work()
    assert fresh(job).state == State.READY
    Queue.objects.update(rate_count=None, rate_seconds=None)
    work()
    assert fresh(job).state == State.SUCCEEDED


def test_a_key_runs_one_at_a_time_in_order_over_queues_and_workers(background_worker, marks):
    for queues in (("a",), ("b",), ()):
        background_worker(queues=queues, **IDLE)
    for number in range(12):
        pay.using(queue_name="ab"[number % 2]).enqueue("x", number, 0.01)
        pay.using(queue_name="ab"[number % 2]).enqueue("y", number, 0.01)
    wait_for(lambda: not Job.objects.exclude(state=State.SUCCEEDED).exists())
    for account in "xy":
        own = [mark for mark in marks() if mark.startswith(account)]
        began, ended = own[::2], own[1::2]
        assert [mark.replace("began", "ended") for mark in began] == ended  # none beside another
        for queue in range(2):  # in each queue in order
            numbers = [int(mark.split(":")[1]) for mark in began]
            assert [n for n in numbers if n % 2 == queue] == list(range(queue, 12, 2))


def test_a_key_runs_in_order_also_through_failures(work, marks):
    first = ending.fail_until.using(concurrency_key="k").enqueue(3)
    second = jobs.mark_once.using(concurrency_key="k").enqueue("second")
    work()
    assert first.wait(1).return_value == 3
    assert second.job.state == State.SUCCEEDED
    assert first.job.attempt == 3


@pytest.mark.slow
@pytest.mark.parametrize("ending_of", ["cancel", "release", "fail", "succeed"])
def test_the_end_of_a_job_lets_the_next_one_start_in_a_worker_of_another_queue(
    background_worker, marks, ending_of, only_when_told
):
    task = {"cancel": jobs.hold_on, "release": jobs.hold_on, "fail": watched.fail_late, "succeed": jobs.pause}
    ours = background_worker(queues=("a",), grace_seconds=0.2, **IDLE)
    theirs = background_worker(queues=("b",), **IDLE)
    keyed = task[ending_of].using(concurrency_key="k", queue_name="a", max_attempts=1)
    first = keyed.enqueue({"fail": 3.0, "succeed": 3.0}.get(ending_of, "k"))
    wait_for(lambda: first.job.state == State.RUNNING)
    second = jobs.mark_once.using(concurrency_key="k", queue_name="b").enqueue("second")
    wait_until_it_rests(theirs)
    assert "second" not in marks()
    if ending_of == "cancel":
        first.cancel()
    elif ending_of == "release":
        ours.stop()
    else:
        wait_for(lambda: first.job.state in FINISHED)
    wait_for(lambda: second.job.state == State.SUCCEEDED, what="the second job")
    assert second.job.attempt == 1


def test_a_pause_keeps_jobs_from_starting_and_its_end_starts_them(background_worker, only_when_told):
    queues = Queue.objects.named("default")
    background_worker(**IDLE)
    queues.pause()
    results = [jobs.add.enqueue(1), pay.enqueue("a", 1)]
    other = jobs.add.using(queue_name="other").enqueue(1)
    wait_for(lambda: other.job.state == State.SUCCEEDED)
    assert [(result.job.state, result.job.attempt) for result in results] == [(State.READY, 0)] * 2
    queues.resume()
    wait_for(lambda: all(result.job.state == State.SUCCEEDED for result in results))


def test_a_wider_limit_is_used_at_once(background_worker, limit, marks, only_when_told):
    limit(max_running=1)
    background_worker(**IDLE)
    results = [jobs.hold_on.enqueue(f"k{n}") for n in range(3)]
    wait_for(lambda: len(marks()) == 1)
    Queue.objects.named("default").edit(max_running=3)
    wait_for(lambda: len(marks()) == 3)
    for result in results:
        result.cancel()


@pytest.mark.slow
def test_a_rate_starts_jobs_evenly_in_all_workers_together(background_worker, limit):
    limit(rate_count=20, rate_seconds=1.0)
    for _ in range(2):
        background_worker(**IDLE)
    enqueue_many([(jobs.add, (1,))] * 40)
    wait_for(lambda: not Job.objects.exclude(state=State.SUCCEEDED).exists())
    starts = sorted(Job.objects.values_list("attempted_at", flat=True))
    for first, after_a_period in zip(starts, starts[21:], strict=False):
        assert after_a_period - first > timedelta(seconds=0.98)


@pytest.mark.slow
def test_while_its_limiter_cools_down_no_job_of_a_queue_starts(background_worker, limit):
    limit(limiter="deepseek")
    Limiter.objects.create(name="deepseek")
    Limiter.objects.filter(name="deepseek").cool_down(timedelta(seconds=1.5))
    until = Limiter.objects.get().blocked_until
    background_worker(**IDLE)
    result = jobs.add.enqueue(1)
    result.wait(10)
    assert (result.job.attempt, result.job.lease_epoch) == (1, 1)
    assert result.job.attempted_at >= until


def test_an_end_of_the_cool_down_by_hand_starts_its_jobs(background_worker, limit, only_when_told):
    limit(limiter="deepseek")
    Limiter.objects.create(name="deepseek", blocked_until=ago(timedelta(hours=-1)))
    result = jobs.add.enqueue(1)
    worker = background_worker(**IDLE)
    wait_until_it_rests(worker)
    assert result.job.attempt == 0
    Limiter.objects.all().end_cool_down()
    wait_for(lambda: result.job.state == State.SUCCEEDED)


def ended_after(first, flood):
    """How many of the flood ended after all of the first ones."""
    last = Job.objects.filter(pk__in=[result.id for result in first]).aggregate(at=Max("finished_at"))["at"]
    return Job.objects.filter(pk__in=[result.id for result in flood], finished_at__gt=last).count()


def test_a_flood_of_short_jobs_does_not_keep_limited_ones_from_starting(work, limit):
    limit("limited", max_running=5)
    flood = enqueue_many([(jobs.add, (n,)) for n in range(3000)])
    limited = enqueue_many([(jobs.add.using(queue_name="limited"), (n,)) for n in range(5)])
    limited += enqueue_many([(pay, (n, 1)) for n in range(5)])
    work(threads=2)
    assert ended_after(limited, flood) > 500


@pytest.mark.slow
def test_a_flood_of_limited_jobs_does_not_keep_others_from_starting(work, limit):
    limit("limited", max_running=50)
    flood = enqueue_many([(jobs.add.using(queue_name="limited"), (n,)) for n in range(300)])
    flood += enqueue_many([(pay.using(concurrency_limit=50), ("a", n)) for n in range(100)])
    others = enqueue_many([(jobs.add, (n,)) for n in range(20)])
    work(threads=2)
    assert ended_after(others, flood) > 100


def test_the_slots_of_running_jobs_never_pass_the_threads(work):
    IN_USE.most = 0
    for slots in (3, 1, 4, 2, 1, 1, 3, 2, 4):
        take_slots.using(slots=slots).enqueue(slots, 0.02)
    enqueue_many([(take_slots, (1, 0.002))] * 200)
    work(threads=4)
    assert (IN_USE.most, IN_USE.now) == (4, 0)


def test_no_short_job_is_claimed_ahead_beside_a_heavy_one(background_worker, marks):
    worker = background_worker(threads=4)
    worker.plan.note_run_seconds("default", 0.0001)
    heavy = jobs.hold_on.using(slots=3).enqueue("heavy")
    wait_for(lambda: "heavy:started" in marks())
    IN_USE.most = 0
    enqueue_many([(take_slots, (1, 0.002))] * 100)
    wait_for(lambda: Job.objects.filter(state=State.SUCCEEDED).count() == 100)
    assert IN_USE.most == 1
    heavy.cancel()


def test_a_heavy_job_that_has_waited_long_gets_its_slots(background_worker, marks):
    background_worker(threads=4)
    enqueue_many([(jobs.pause, (0.05,))] * 400)
    heavy = jobs.mark_once.using(slots=4).enqueue("heavy")
    Job.objects.filter(pk=heavy.id).update(ready_at=ago(timedelta(seconds=61)))
    wait_for(lambda: heavy.job.state == State.SUCCEEDED)
    assert Job.objects.filter(state=State.READY).exists()


def test_a_task_that_is_too_heavy_for_the_worker_is_named_once(work, caplog):
    results = [jobs.add.using(slots=9).enqueue(n) for n in range(3)]
    fits = jobs.add.using(slots=2).enqueue(1)
    work(threads=4)
    assert caplog.text.count("tests.jobs.add takes 9 slots, and this worker has --threads 4") == 1
    assert fits.job.state == State.SUCCEEDED
    assert [result.job.attempt for result in results] == [0, 0, 0]


def test_limited_suspects_never_run_side_by_side_in_a_process(work, marks, limit):
    limit(max_running=9)
    watched.mark_both_ends.enqueue("a", 0.1)
    watched.mark_both_ends.using(concurrency_key="k").enqueue("b", 0.1)
    watched.mark_both_ends.using(slots=2, queue_name="other").enqueue("c", 0.1)
    watched.mark_both_ends.using(queue_name="other").enqueue("d", 0.1)
    Job.objects.update(crashes=SUSPECT_FROM)
    work(threads=6)
    order = [key for key, _, _ in (mark.partition(":") for mark in marks())]
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == ["a", "b", "c", "d"]


def test_max_jobs_counts_limited_jobs_too(work, limit):
    limit(max_running=9)
    for n in range(4):
        jobs.add.enqueue(n), pay.enqueue(n, 1)
    assert work(burst=False, max_jobs=5).following.jobs_done == 5
    assert Job.objects.filter(state=State.READY, attempt=0).count() == 3


def test_a_worker_that_may_run_fewer_jobs_than_a_heavy_one_takes_slots_runs_it(work):
    long_ago = ago(timedelta(seconds=OVERDUE_SECONDS + 5))
    job = make(slots=4, args=[1, 2], ready_at=long_ago)
    assert work(burst=False, max_jobs=1, max_idle_seconds=5.0).following.jobs_done == 1
    assert fresh(job).state == State.SUCCEEDED


def test_a_burst_ends_where_more_keys_are_full_than_a_look_walks_over(work):
    for number in range(KEYS_AT_MOST + 5):
        key = f"full {number}"
        make_keyed(key), make_running(concurrency_key=key, concurrency_limit=1, slots=1)
    assert work(max_idle_seconds=10.0).plan.busy_at > time.monotonic() - 9


@pytest.fixture
def claim_limited(transactional_db):
    """A plan that claims limited jobs with this number of free slots: `claim_limited(plan, 1)`."""

    def claim(plan, free_slots):
        plan._in_flight.runs.clear()
        plan._in_flight.hold(run_of("busy") for _ in range(plan.threads - free_slots))
        return plan.claim_limited()

    return claim


def test_a_second_look_follows_each_notify(claim_limited):
    """As for jobs without a limit: see test_claim_plan.py."""
    waits = []
    with plan_of() as plan:
        for _ in range(
            20
        ):  # where the process is not held up, the first look is over before the second is due
            plan.hear(notify.LIMITED, "default")
            heard_at = time.monotonic()
            claim_limited(plan, 1)
            waits.append(plan.limited.next_at(1) - heard_at)
    assert min(waits) <= notify.COALESCE_SECONDS + 0.01


def test_a_job_whose_limit_is_full_is_looked_at_again_since_the_worker_in_the_way_may_have_died(
    claim_limited, limit
):
    limit(max_running=1)
    make_running()
    with plan_of(poll_seconds=600.0) as plan:
        for _ in range(8):  # the pauses grow to ten minutes
            claim_limited(plan, 1)
        assert plan.limited.next_at(1) > time.monotonic() + 60, "nothing waits"
        make()
        claim_limited(plan, 1)
        assert plan.limited.next_at(1) <= time.monotonic() + FULL_SECONDS


@pytest.mark.parametrize("slots", [2, 5])
def test_other_workers_are_told_of_room_that_this_one_has_too_few_free_slots_for(claim_limited, limit, slots):
    limit(max_running=9)
    make_keyed("a", slots=slots)
    with plan_of(threads=4) as plan:
        ended = run_of("default")
        ended.is_limited = True
        plan.note_end(ended, None)
        claim_limited(plan, 1)
        assert plan.limited.is_drained
        assert plan.room_notice.is_wanted
        Job.objects.update(slots=1)
        claim_limited(plan, 1)
        claim_limited(plan, 0)
        assert not plan.room_notice.is_wanted


@pytest.mark.slow
def test_where_nothing_is_limited_a_wake_causes_no_look(background_worker):
    worker = background_worker(**IDLE)
    wait_for(lambda: worker.plan.limited.next_at(4) > time.monotonic() + 5, what="the worker to rest")
    due = worker.plan.limited.next_at(4)
    assert jobs.add.enqueue(1).wait(10).return_value == 2
    assert worker.plan.limited.next_at(4) == due


def test_what_the_database_refuses_is_asked_for_again_a_moment_later(transactional_db, other, limit):
    limit(max_running=1)
    result = jobs.add.enqueue(1)
    worker = WorkerLoop(WorkerOptions(threads=1))
    with other.transaction():
        other.execute("LOCK TABLE pgonly_queue IN ACCESS EXCLUSIVE MODE")
        worker._claim_limited()
        assert worker.plan.limited.next_at(1) > time.monotonic()
    wait_for(lambda: worker._claim_limited() or fresh(result.job).attempt == 1)
    worker.in_flight.runs.clear()
    worker.database.close()
    worker.slots.close(2.0)


def test_the_limits_of_the_settings_hold_from_the_first_claim_on(work, settings):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"default": {"max_running": 1}}}
    results = [count_beside.enqueue(0.02) for _ in range(3)]
    work(threads=3)
    assert {result.wait(1).return_value for result in results} == {1}


def test_a_worker_that_brings_limits_tells_those_that_run_already(
    background_worker, settings, only_when_told
):
    older = background_worker(queues=("other",), **IDLE)
    wait_until_it_rests(older)
    due = older.plan.limited.next_at(4)
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"other": {"max_running": 1}}}
    background_worker(queues=("default",), **IDLE)
    wait_for(lambda: older.plan.limited.next_at(4) != due)
    result = jobs.add.using(queue_name="other").enqueue(1)
    wait_for(lambda: result.job.state == State.SUCCEEDED)
