"""A worker that has nothing to do sleeps (--sleep-after): it has no connection, and wakes up when it is time."""

from __future__ import annotations

import time

import pytest
from django.db import connection

from pgonly_django import send_event
from pgonly_django.database.connect import connect
from pgonly_django.models import Budget, Job, Schedule, State
from pgonly_django.models import Worker as WorkerRow
from pgonly_django.queue import liveness
from pgonly_django.worker import options, sleep, timers
from pgonly_django.worker.status import WorkerState
from tests import activity, jobs
from tests.aliases import alias
from tests.jobs import waiting
from tests.queue.rows import HOUR, ago, fresh, make, make_running, make_worker, while_locked
from tests.waiting import wait_for

SECOND = HOUR / 3600

_before: list[int] = []  # pids of backends


@pytest.fixture(autouse=True)
def short_times(settings, monkeypatch, transactional_db):
    settings.PGONLY = {"LEASE_SECONDS": 2}
    _before[:] = activity.pids()
    monkeypatch.setattr(options, "SLEEP_AFTER_LEAST", 0.0)
    monkeypatch.setattr(sleep, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(sleep, "RUNNING_SECONDS", 0.2)
    monkeypatch.setattr(sleep, "SHORTEST_SECONDS", 0.3)


@pytest.fixture
def sleeping_worker(background_worker):
    def start(**options):
        worker = background_worker(**{"sleep_after": 0.2, **options})
        wait_until_asleep(worker)
        return worker

    return start


def backends():
    return activity.backends(_before)


def is_asleep(worker):
    return worker.status().state is WorkerState.ASLEEP


def wait_until_asleep(worker):
    wait_for(lambda: is_asleep(worker), what="sleep")


def some_time():
    until = time.monotonic() + 0.7
    wait_for(lambda: time.monotonic() > until)


def cut_off_main_loop(worker):
    """By the server, as one that is suspended does."""
    assert activity.end(f"application_name LIKE 'pgonly worker {worker.id}%'") == 1


def row_of(worker):
    return WorkerRow.objects.get(pk=worker.id)


def has_ended(job):
    return fresh(job).state == State.SUCCEEDED


def wait_for_end(job):
    wait_for(lambda: has_ended(job), what="the job")


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["stop", "drain"])
@pytest.mark.parametrize("wakes", ["due", "woken"])
def test_one_that_was_asked_to_stop_in_its_sleep_claims_nothing_when_it_wakes(sleeping_worker, verb, wakes):
    worker = sleeping_worker(poll_seconds=2.0 if wakes == "due" else None)
    getattr(WorkerRow.objects.filter(pk=worker.id), verb)()
    job = make(args=[1, 2])
    if wakes != "due":
        worker.wake()
    assert worker.left.wait(20)
    assert (fresh(job).state, fresh(job).lease_epoch) == (State.READY, 0)


@pytest.mark.slow
@pytest.mark.parametrize("listen", [True, False])
def test_asleep_it_has_no_connection_and_its_row_says_so(sleeping_worker, cache, listen):
    cache.set("key", 1)  # leaves a connection open
    worker = sleeping_worker(listen=listen)
    wait_for(lambda: backends() == [])
    row = row_of(worker)
    assert row.sleeping_since is not None
    WorkerRow.objects.filter(pk=worker.id).update(heartbeat_at=ago(HOUR))
    some_time()
    assert backends() == []
    assert is_asleep(worker)
    assert list(WorkerRow.objects.live()) == [row]


def test_asleep_the_connection_that_listens_past_a_pooler_is_closed(any_database, sleeping_worker, settings):
    settings.PGONLY = {**settings.PGONLY, "LISTEN_DATABASE": "direct"}
    with alias("direct"):
        worker = sleeping_worker()
        wait_for(lambda: backends() == [])
        some_time()
        assert backends() == []
        result = jobs.add.enqueue(1, 2)
        worker.wake()
        assert result.wait(30).return_value == 3
        assert [name for name, *_ in backends() if name.startswith("pgonly listener")]
        worker.stop()
        assert worker.left.wait(10)


@pytest.mark.slow
def test_asleep_the_pool_of_django_is_closed(pooled, sleeping_worker, marks):
    with connect("default", application_name="pgonly tests") as line:
        before = activity.pids(on=line)  # another test may have left some
        result = jobs.mark_once.enqueue("k")
        worker = sleeping_worker()
        assert result.job.is_finished
        connection.close()
        wait_for(lambda: set(activity.pids(on=line)) <= set(before))
    again = jobs.mark_once.enqueue("again")
    worker.wake()
    again.wait(30)
    assert marks() == ["k", "again"]


def test_woken_it_runs_what_was_enqueued_and_falls_asleep_again(sleeping_worker):
    worker = sleeping_worker()
    result = jobs.add.enqueue(1, 2)
    some_time()
    assert result.job.state == State.READY
    worker.wake()
    assert result.wait(30).return_value == 3
    wait_for(lambda: row_of(worker).sleeping_since is None)
    wait_until_asleep(worker)
    wait_for(lambda: backends() == [])


def test_its_row_is_made_again_when_it_was_forgotten(sleeping_worker):
    worker = sleeping_worker()
    WorkerRow.objects.all().delete()
    worker.wake()
    wait_for(lambda: WorkerRow.objects.filter(pk=worker.id, sleeping_since=None).exists())


@pytest.mark.slow
def test_it_wakes_up_when_a_scheduled_job_is_due(background_worker):
    worker = background_worker(sleep_after=0.2)
    job = make(state=State.SCHEDULED, run_at=ago(-3 * SECOND), args=[1, 2])
    wait_until_asleep(worker)
    assert worker.sleep.wake_at - time.monotonic() < 3
    wait_for_end(job)
    wait_until_asleep(worker)
    assert worker.sleep.wake_at == float("inf")


@pytest.mark.slow
def test_it_wakes_up_at_the_tick_of_a_schedule(background_worker):
    Schedule.objects.create(name="often", task="tests.jobs.add", args=[1, 2], every_seconds=5)
    worker = background_worker(sleep_after=0.2)
    wait_until_asleep(worker)
    assert 0 < worker.sleep.wake_at - time.monotonic() < 5
    before = Job.objects.count()
    wait_for(lambda: Job.objects.filter(state=State.SUCCEEDED).count() > before)


@pytest.mark.slow
def test_with_poll_seconds_it_looks_by_itself_and_sleeps_on_where_it_finds_nothing(sleeping_worker):
    worker = sleeping_worker(poll_seconds=1.0, sleep_after=2.0)
    woke = []
    ends, worker.sleep._end = worker.sleep._end, lambda reason: (woke.append(time.monotonic()), ends(reason))
    wait_for(lambda: len(woke) == 2)
    assert woke[1] - woke[0] < 2.0 + 1.0  # it did not stay awake for as long as after a job
    wait_for_end(make(args=[1, 2]))


def test_it_wakes_up_when_a_budget_that_holds_jobs_has_room_again(background_worker):
    Budget.objects.create(name="p", usd=1, spent=2, per="hour", period_start=ago(-HOUR))
    make(state=State.HELD, held_by="budget:p")
    worker = background_worker(sleep_after=0.2)
    wait_until_asleep(worker)
    assert 0 < worker.sleep.wake_at - time.monotonic() <= 3600


def test_jobs_held_for_ever_keep_no_worker_awake(background_worker):
    Budget.objects.create(name="p", usd=1, spent=2)
    job = make(state=State.HELD, held_by="budget:p", args=[1, 2])
    worker = background_worker(sleep_after=0.2)
    wait_until_asleep(worker)
    assert worker.sleep.wake_at == float("inf")
    Budget.objects.filter(name="p").start_over()
    worker.wake()
    wait_for_end(job)


def test_it_stays_awake_while_the_row_of_a_job_whose_event_has_come_is_locked(
    background_worker, other, monkeypatch
):
    monkeypatch.setattr(timers, "LONGEST_RETRY_SECONDS", 0.2)  # less than SHORTEST_SECONDS, as it is
    result = waiting.wait.enqueue("k")
    worker = background_worker(sleep_after=0.2)
    wait_for(lambda: Job.objects.filter(state=State.SCHEDULED).exists())
    with while_locked(result.job, other):
        send_event("k", 7)
        worker.wake()
        some_time()
        assert not is_asleep(worker)
    wait_for_end(result.job)
    wait_until_asleep(worker)


def test_it_stays_awake_while_a_job_of_any_worker_runs(background_worker):
    job = make_running(make_worker().id)
    worker = background_worker(sleep_after=0.2)
    some_time()
    assert not is_asleep(worker)
    assert row_of(worker).sleeping_since is None
    Job.objects.filter(pk=job.pk).update(state=State.SUCCEEDED)
    wait_until_asleep(worker)


def test_woken_it_rescues_the_jobs_of_a_dead_worker(sleeping_worker):
    worker = sleeping_worker()
    job = make_running(make_worker(HOUR).id, lease_expires_at=ago(HOUR), args=[1, 2])
    worker.wake()
    wait_for_end(job)


def test_what_is_enqueued_while_it_falls_asleep_is_run(background_worker, monkeypatch):
    falls, results = liveness.fall_asleep, []

    def enqueue_then(*arguments):
        answer = falls(*arguments)
        if not results:
            with connect("default", application_name="pgonly tests") as line:
                results.append(make(args=[1, 2]))
                line.execute("SELECT pg_notify('pgonly_jobs', 'ready default')")
        return answer

    monkeypatch.setattr(liveness, "fall_asleep", enqueue_then)
    worker = background_worker(sleep_after=0.2)
    wait_for(lambda: results and has_ended(results[0]))
    wait_until_asleep(worker)


def test_no_beat_says_of_a_worker_that_has_just_fallen_asleep_that_it_is_awake(
    background_worker, monkeypatch
):
    """One that was about to begin when the worker's row was written."""
    fall_asleep = liveness.fall_asleep

    def beat_after(connection, worker_id):
        answer = fall_asleep(connection, worker_id)
        if answer.is_asleep:
            worker.heartbeat.beat(connection)
        return answer

    monkeypatch.setattr(liveness, "fall_asleep", beat_after)
    worker = background_worker(sleep_after=0.2)
    wait_until_asleep(worker)
    assert row_of(worker).sleeping_since is not None


def test_a_worker_that_cannot_fall_asleep_beats_on(background_worker, monkeypatch):
    asked = []
    stays_awake = liveness.FallenAsleep(is_asleep=False, next_due_in_seconds=None)
    monkeypatch.setattr(liveness, "fall_asleep", lambda *_: asked.append(time.monotonic()) or stays_awake)
    worker = background_worker(sleep_after=0.2)
    wait_for(lambda: len(asked) > 1)
    wait_for(lambda: worker.heartbeat.beaten_at > asked[1], seconds=5, what="a beat")
    assert not is_asleep(worker)


def test_a_worker_that_may_not_sleep_connects_again(background_worker):
    worker = background_worker()
    cut_off_main_loop(worker)
    assert jobs.add.enqueue(1, 2).wait(30).return_value == 3
    assert not is_asleep(worker)


def test_a_stop_ends_the_sleep_and_the_row_says_so(sleeping_worker):
    worker = sleeping_worker()
    worker.stop()
    assert worker.left.wait(10)
    row = row_of(worker)
    assert (row.stopped_at is not None, row.sleeping_since) == (True, None)
    assert not WorkerRow.objects.live().exists()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"max_idle_seconds": 2.5}, {"max_seconds": 8.0}])
def test_one_that_sleeps_ends_by_itself_in_time(sleeping_worker, options):
    worker = sleeping_worker(**options)
    assert worker.left.wait(15)
    assert row_of(worker).stopped_at is not None
