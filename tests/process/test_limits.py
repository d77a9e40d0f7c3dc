"""Limits over several worker processes, some of which die or freeze."""

from __future__ import annotations

import random
import signal
import time
from itertools import pairwise

import pytest
from django.db import connection

from pgonly_django import enqueue_many
from pgonly_django.models import Job, Limiter, Queue, State, Worker
from tests import jobs
from tests.children import database_url
from tests.jobs.limited import count_beside, pay, stay_inside
from tests.jobs.limiting import use
from tests.limits.rows import held, waiting
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]
UNFINISHED = (State.READY, State.RUNNING, State.SCHEDULED)


def running(**facts):
    return Job.objects.filter(state=State.RUNNING, **facts).count()


def succeeded():
    return Job.objects.filter(state=State.SUCCEEDED).count()


def unfinished():
    return Job.objects.filter(state__in=UNFINISHED).count()


def watch(highest, seconds, until, **facts):
    """The most running rows that were ever seen, until a condition comes true."""
    seen = [highest]

    def look():
        seen.append(running(**facts))
        return until()

    wait_for(look, seconds)
    return max(seen)


def test_max_running_is_never_passed_by_four_workers_that_are_killed_at_random(workers):
    Queue.objects.create(name="ai", max_running=5)
    for _ in range(4):
        workers.start("--threads", "4")
    results = enqueue_many([(count_beside.using(queue_name="ai"), (0.1,)) for _ in range(150)])
    highest = 0
    for left in (120, 90):
        highest = watch(highest, 30, lambda left=left: unfinished() <= left)
        victim = random.choice([worker for worker in workers.started if worker.process.poll() is None])
        victim.kill()
        workers.start("--threads", "4")
    highest = watch(highest, 60, lambda: not unfinished())
    assert {result.job.state for result in results} == {State.SUCCEEDED}
    assert highest == 5
    assert max(result.job.result for result in results) <= 5
    assert max(result.job.attempt for result in results) == 1


def test_a_key_runs_one_at_a_time_in_order_while_workers_are_killed(workers, marks):
    for _ in range(3):
        workers.start("--threads", "2")
    for number in range(40):
        pay.enqueue("x", number, 0.05)
    for enough in (6, 20):
        wait_for(lambda enough=enough: len(marks()) >= 2 * enough)
        (owner,) = wait_for(
            lambda: Job.objects.filter(state=State.RUNNING).values_list("worker_id", flat=True)
        )
        name = Worker.objects.get(pk=owner).name
        next(worker for worker in workers.started if worker.name == name).kill()
        workers.start("--threads", "2")
    wait_for(lambda: not unfinished(), 60)
    began = [mark.split(":")[1] for mark in marks() if mark.endswith("began")]
    # A job whose worker died lines up again behind the others.
    late = {str(args[1]) for args in Job.objects.filter(lease_epoch__gt=1).values_list("args", flat=True)}
    expected = [str(number) for number in range(40) if str(number) not in late]
    assert [number for number in began if number not in late] == expected
    assert len(late) <= 2
    assert marks_overlap(marks()) <= len(late)  # each death left one open


def marks_overlap(marks):
    """How many jobs began while another was open."""
    return sum(after.endswith("began") for mark, after in pairwise(marks) if mark.endswith("began"))


def test_a_worker_that_is_frozen_while_it_claims_holds_the_others_up_for_seconds_at_most(workers):
    """Stopped at a random moment many times, it will stand inside a claim now and then."""
    Queue.objects.create(name="ai", max_running=8)  # more than the frozen worker can hold
    frozen = workers.start("--threads", "2", lease=60)
    workers.start("--threads", "2", lease=60)
    enqueue_many([(jobs.add.using(queue_name="ai"), (n,)) for n in range(1_200)])
    for _ in range(20):
        time.sleep(random.uniform(0.01, 0.05))  # a random moment is the point
        frozen.send(signal.SIGSTOP)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1885826926 AND granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            inside = cursor.fetchone()[0]
        if inside:
            done = succeeded()
            wait_for(lambda done=done: succeeded() > done + 2, 10)
        frozen.send(signal.SIGCONT)
        if not unfinished():
            break
    wait_for(lambda: not unfinished(), 90)
    assert "broke down" not in frozen.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stopped_worker_gives_the_slot_of_a_limiter_back_whose_call_it_cuts_off(workers, marks, number):
    Limiter.objects.create(name="deepseek", concurrent=1)
    worker = workers.start("--grace-seconds", "0.5")
    stay_inside.enqueue(60)
    wait_for(lambda: "inside" in marks(), what="the call")
    assert held() == 1
    worker.send(number)
    assert worker.wait() == 0
    assert held() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stopped_worker_takes_back_the_tickets_of_callers_that_wait_for_a_limiter(
    workers, marks, hold, number
):
    Limiter.objects.create(name="deepseek", concurrent=1)
    holder = hold("deepseek")
    worker = workers.start("--threads", "45")
    for n in range(45):
        use.enqueue(f"use {n}")
    wait_for(lambda: waiting() == 45, what="the tickets")
    last = hold("deepseek", wait=False)
    wait_for(lambda: waiting() == 46)
    worker.send(number)
    assert worker.wait() == 0
    assert waiting() == 1
    holder.leave()
    assert last.is_in.wait(3)  # the tickets of dead callers would count for 15 s


def test_behind_a_pooler_limits_hold_as_well(workers, pooler):
    Queue.objects.create(name="ai", max_running=2)
    url = database_url(HOST="127.0.0.1", PORT=pooler)
    started = [workers.start("--threads", "4", DATABASE_URL=url) for _ in range(2)]
    results = enqueue_many([(count_beside.using(queue_name="ai"), (0.05,)) for _ in range(10)])
    for n in range(10):
        pay.enqueue("x", n)
    highest = watch(0, 60, lambda: not unfinished(), queue="ai")
    assert highest <= 2
    assert max(result.job.result for result in results) <= 2
    for worker in started:
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
