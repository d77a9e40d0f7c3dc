from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection, connections
from django.utils import timezone

from pgonly_django.duties import NEVER, Workplace
from pgonly_django.models import Job, Schedule, State
from pgonly_django.models.schedule import UNPLANNED
from pgonly_django.scheduling import decorators, due
from pgonly_django.scheduling.due import DueSchedules
from pgonly_django.scheduling.plugin import BLIND_SECONDS, RunSchedules
from pgonly_django.worker.housekeeper import Housekeeper
from tests import activity
from tests.elsewhere import missing
from tests.scheduling import tasks
from tests.scheduling.rows import HOUR, clock, fresh, make, ticks
from tests.waiting import wait_for

SOON = timedelta(seconds=0.5)


@pytest.fixture(autouse=True)
def only_those_of_the_test(monkeypatch):
    monkeypatch.setattr(decorators, "_declared", {})


@pytest.fixture
def make_duty(transactional_db):
    def duty(*, listens=True):
        return RunSchedules(Workplace("default", uuid4(), listens=lambda: listens))

    return duty


def test_without_schedules_it_never_comes_again_by_itself(make_duty, django_assert_max_num_queries):
    duty = make_duty()
    assert duty.run() == NEVER
    with django_assert_max_num_queries(1):  # after a NOTIFY
        assert duty.run() == NEVER


def test_it_comes_again_exactly_at_the_next_tick(make_duty):
    make(next_at=timezone.now() + timedelta(seconds=100))
    assert 99 < make_duty().run() <= 100


def test_without_listen_it_looks_for_changes_now_and_then(make_duty):
    assert make_duty(listens=False).run() == BLIND_SECONDS


def test_declared_schedules_are_confirmed_now_and_then(make_duty, settings):
    settings.PGONLY = {"SCHEDULES": {"nightly": {"task": "tests.jobs.add", "cron": "0 3 * * *", "args": [1]}}}
    duty = make_duty()
    assert 0 < duty.run() <= 3600
    assert Schedule.objects.get().is_planned


def test_a_job_starts_when_its_tick_is_due(background_worker):
    background_worker()
    due_at = timezone.now() + SOON
    schedule = make(next_at=due_at)
    job = wait_for(lambda: Job.objects.filter(state=State.SUCCEEDED).first())
    assert job.run_at == due_at
    assert timedelta(0) <= job.enqueued_at - due_at < timedelta(seconds=5)
    assert fresh(schedule).next_at == due_at + HOUR


def test_a_change_is_heard_at_once(background_worker):
    schedule = make(next_at=timezone.now() + HOUR)
    worker = background_worker(poll_seconds=600.0)
    worker.housekeeper.has_looked.wait(10)
    Schedule.objects.all().edit(every_seconds=0.3)
    wait_for(lambda: len(ticks(schedule)) > 1)
    Schedule.objects.all().pause()
    wait_for(lambda: fresh(schedule).paused_at is not None)


def test_a_change_that_is_rolled_back_is_not_heard(background_worker):
    worker = background_worker(poll_seconds=600.0)
    worker.housekeeper.has_looked.wait(10)
    connection.set_autocommit(False)
    make()
    connection.rollback()
    connection.set_autocommit(True)
    make("second", next_at=timezone.now())
    wait_for(lambda: Job.objects.count() == 1)
    assert list(Schedule.objects.values_list("name", flat=True)) == ["second"]


def test_schedules_of_code_run_by_themselves(background_worker, settings):
    entry = {"task": "tests.jobs.add", "every": 0.3, "args": [1]}
    settings.PGONLY = {**settings.PGONLY, "SCHEDULES": {"often": entry}}
    background_worker()
    wait_for(lambda: Job.objects.filter(state=State.SUCCEEDED).count() >= 2)
    first, second = Job.objects.order_by("run_at")[:2]
    assert (second.run_at - first.run_at) % timedelta(seconds=0.3) == timedelta(0)


@pytest.mark.slow
def test_a_connection_that_breaks_before_the_tick_costs_a_second(background_worker, server):
    due_at = timezone.now() + timedelta(seconds=1.5)
    make(next_at=due_at)
    worker = background_worker()
    worker.housekeeper.has_looked.wait(10)
    activity.end("query LIKE '%pgonly_schedule%'", server)
    connections.close_all()
    job = wait_for(Job.objects.first)
    assert job.run_at == due_at


def test_the_thread_ends_with_its_worker_and_leaves_no_connection(background_worker):
    make(next_at=timezone.now() + timedelta(seconds=5), every_seconds=5.0)
    worker = background_worker()
    worker.housekeeper.has_looked.wait(10)
    worker.stop()
    wait_for(worker.left.is_set)
    assert not worker.housekeeper.is_alive()


def test_an_unplanned_schedule_is_planned_by_whoever_looks_first(make_duty):
    schedule = make(next_at=UNPLANNED)
    make_duty().run()
    assert fresh(schedule).is_planned


def test_a_job_finds_its_tick_and_the_budget_of_its_schedule(work):
    schedule = make(task="tests.scheduling.tasks.tick_and_budget", args=[], budget="nightly")
    work()
    job = Job.objects.get()
    assert job.result == [schedule.next_at.isoformat(), "nightly"]


def test_while_the_table_cannot_be_read_it_tries_ever_more_seldom_and_says_so_once(make_duty, server, caplog):
    duty = make_duty()

    def tried():
        try:
            return duty.run()
        except Exception as error:
            connections.close_all()
            return duty.failed(error)

    with missing(server.execute, "pgonly_schedule"):
        assert [tried() for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert len(caplog.records) == 1
    assert "pgonly_schedule" in caplog.records[0].message
    assert tried() == NEVER


def test_without_schedules_it_keeps_no_connection_open(background_worker, server):
    worker = background_worker()
    assert worker.housekeeper.has_looked.wait(10)
    connection.close()
    wait_for(lambda: not activity.pids("query LIKE '%pgonly_schedule%'", server))
    assert duty_of(worker)._declare_at == NEVER


@pytest.fixture
def hanging(monkeypatch, transactional_db):
    """A schedule that has been due for an hour, whose enqueue() hangs until the test's end, or until tasks.released."""
    monkeypatch.setattr(due, "TURN_SECONDS", 0.2)
    tasks.released.clear()
    yield make("hanging", task="tests.scheduling.tasks.hangs", next_at=timezone.now() - HOUR)
    tasks.released.set()
    wait_for(lambda: not due.in_hand["default"])


def duty_of(worker):
    (duty,) = (duty for duty in worker.housekeeper.duties if isinstance(duty, RunSchedules))
    return duty


def is_hanging():
    return "hanging" in due.in_hand["default"]


@pytest.mark.slow
def test_one_that_hangs_keeps_no_other_from_ticking_and_runs_when_it_returns(background_worker, hanging):
    make("another", task="tests.scheduling.tasks.hangs", next_at=timezone.now() - HOUR / 2)
    neighbour = make("neighbour", every_seconds=0.3, args=[2], overlap="allow")
    worker = background_worker()
    wait_for(is_hanging)
    since = clock()
    wait_for(lambda: len(ticks(neighbour, tick_at__gt=since)) >= 3)
    assert due.in_hand["default"] == {"hanging", "another"}
    assert worker.housekeeper.is_alive()
    tasks.released.set()
    wait_for(lambda: len(ticks(hanging)) == 1)
    since = clock()
    wait_for(lambda: len(ticks(neighbour, tick_at__gt=since)) >= 3)


def test_once_one_that_hung_returns_its_next_tick_is_waited_for(background_worker, hanging):
    worker = background_worker()
    wait_for(lambda: is_hanging() and duty_of(worker).needed_at == NEVER)
    tasks.released.set()
    wait_for(lambda: duty_of(worker).needed_at < NEVER)


def test_one_whose_connection_the_server_ends_while_it_hangs_says_so(
    background_worker, hanging, server, monkeypatch
):
    put_off, was_in_hand = DueSchedules._put_off_after, []

    def noting(*args):
        was_in_hand.append(is_hanging())
        put_off(*args)

    monkeypatch.setattr(DueSchedules, "_put_off_after", noting)
    neighbour = make("neighbour", every_seconds=0.3, args=[2], overlap="allow")
    background_worker()
    wait_for(is_hanging)
    wait_for(lambda: activity.end("state = 'idle in transaction' AND query LIKE '%pgonly_tick%'", server))
    tasks.released.set()
    assert "It took long" in wait_for(lambda: fresh(hanging).problem)
    assert ticks(hanging) == []
    assert was_in_hand == [True]  # so that no other thread takes it in between
    since = clock()
    wait_for(lambda: len(ticks(neighbour, tick_at__gt=since)) >= 3)


def test_a_look_ends_though_one_hangs(hanging):
    make("neighbour", args=[2])
    housekeeper = Housekeeper(Workplace("default", uuid4()), [RunSchedules])
    housekeeper.start()
    assert housekeeper.has_looked.wait(10)
    assert 3590 < housekeeper.needed_at - time.monotonic() < 3600
    assert Job.objects.count() == 1
    assert is_hanging()
    housekeeper.end()


def test_a_worker_stops_while_one_hangs(background_worker, hanging):
    worker = background_worker()
    wait_for(is_hanging)
    begin = time.monotonic()
    worker.stop()
    wait_for(worker.left.is_set)
    assert time.monotonic() - begin < 10
    assert not worker.housekeeper.is_alive()
