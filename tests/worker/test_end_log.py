"""The thread that writes the log of a worker: many ends, and handlers that are slow, hang or raise."""

from __future__ import annotations

import gc
import logging
import re
import threading
import time
import weakref
from types import SimpleNamespace

import pytest

from pgonly_django import enqueue_many
from pgonly_django.compat import TaskResultStatus
from pgonly_django.context.run import Run
from pgonly_django.current_job import current_job
from pgonly_django.events import subscribe
from pgonly_django.models import Job, State
from pgonly_django.worker import job_log, lanes
from pgonly_django.worker.ending import EndedRun, succeeded
from pgonly_django.worker.status import ExitCode
from tests import jobs
from tests.gate import Gate
from tests.jobs import reported
from tests.queue.rows import HOUR, ago, make, make_running, make_worker
from tests.waiting import beside, wait_for


@pytest.fixture
def handler(request, caplog):
    """Add a handler that does `handle(record)` to a logger."""

    def add(handle, name="pgonly_django.worker"):
        handler, logger = logging.Handler(), logging.getLogger(name)
        handler.emit = handle
        logger.addHandler(handler)
        request.addfinalizer(lambda: logger.removeHandler(handler))
        caplog.set_level(logging.INFO, name)

    return add


@pytest.fixture
def hanging(handler):
    """A handler that hangs until the test's end, or until `opened`."""
    gate = Gate()

    def hang(record):
        gate.reached.set()
        gate.opened.wait(30)

    handler(hang, "pgonly_django")
    yield gate
    gate.opened.set()


@pytest.fixture
def own_and_summed(events):
    """How many jobs have a line of their own, and how many are in a line for many of them."""

    def count():
        own = [record.job_id for record in events("worker.job_ended")]
        assert len(own) == len(set(own))
        return len(own), sum(record.jobs for record in events("worker.jobs_succeeded"))

    return count


@pytest.fixture
def add_many(work):
    """Let a worker run so many jobs that succeed."""

    def run(count):
        enqueue_many((jobs.add, (1,)) for _ in range(count))
        return work()

    return run


def test_where_many_jobs_succeed_a_line_tells_of_all_that_did_within_a_second(
    add_many, events, own_and_summed
):
    add_many(600)
    own, summed = own_and_summed()
    assert own + summed == 600
    assert 100 <= own < 600
    line = events("worker.jobs_succeeded")[0]
    assert re.fullmatch(
        r"tests\.jobs\.add: \d+ succeeded in [\d.]+ s, p50 .* [mu]?s, p95 .* [mu]?s\.", line.message
    )
    assert (line.task, line.levelname) == ("tests.jobs.add", "INFO")
    assert 0 < line.p50_seconds <= line.p95_seconds


def test_while_each_second_has_many_only_the_first_one_has_own_lines(run_of, own_and_summed):
    run, log = run_of(jobs.add, 1), job_log.EndLog()

    def succeed():
        for number in range(150):
            job = run.job._replace(id=f"{log.due_at}-{number}")
            again = Run(job, run.alias, claimed_at=0.0, lease_until=float("inf"))
            log.note(EndedRun(again, succeeded(run, 1), 0.5))
        log.send()

    succeed()
    wait_for(lambda: log.due_at <= time.monotonic(), what="the end of the second")
    log.run()
    succeed()
    log.close(10)
    assert own_and_summed() == (100, 200)


def test_a_job_after_many_has_its_own_line_with_the_time_of_its_end(background_worker, events):
    background_worker()
    enqueue_many((jobs.add, (1,)) for _ in range(300))
    wait_for(lambda: events("worker.jobs_succeeded"), what="the line of many")
    result = jobs.add.enqueue(1)
    result.wait(10)
    until = time.time()
    line = wait_for(lambda: [each for each in events("worker.job_ended") if each.job_id == result.id])
    assert line[0].created <= until + 0.1


def test_each_failure_keeps_its_line_among_many_successes(work, events, own_and_summed):
    fail = jobs.fail.using(max_attempts=1)
    enqueue_many(((jobs.add, (1,)) if number % 100 else (fail, ("no",))) for number in range(500))
    work()
    assert len(events("worker.attempt_failed")) == 5
    assert sum(own_and_summed()) == 495


def test_a_setting_gives_each_job_its_line(add_many, own_and_summed, settings):
    settings.PGONLY = {**settings.PGONLY, "LOG_EACH_JOB": True}
    add_many(300)
    assert own_and_summed() == (300, 0)


def test_listeners_are_told_of_each_end_once(add_many):
    told = []
    unsubscribe = subscribe(lambda name, facts: told.append((name, facts)))
    add_many(600)
    unsubscribe()
    ended = [facts for name, facts in told if name == "worker.job_ended"]
    assert len({facts["job_id"] for facts in ended}) == len(ended) == 600
    assert {facts["outcome"] for facts in ended} == {"succeeded"}


def test_a_handler_that_hangs_delays_no_job(background_worker, hanging):
    background_worker()
    jobs.add.enqueue(0)
    assert hanging.reached.wait(10)
    results = [jobs.add.enqueue(number) for number in range(3)]
    assert [result.wait(10).return_value for result in results] == [1, 2, 3]


@pytest.mark.parametrize(
    ("failing", "following"),
    [(jobs.fail, jobs.add), (reported.fail_async, jobs.add_async)],
    ids=["sync", "async"],
)
def test_a_handler_that_hangs_keeps_no_failed_job_running(background_worker, hanging, failing, following):
    """More of them than slots, and others after them."""
    background_worker(threads=2)
    failed = [failing.using(max_attempts=1).enqueue(7) for _ in range(4)]
    for result in failed:
        assert result.wait(10).status == TaskResultStatus.FAILED
    assert following.enqueue(1, 1).wait(10).return_value == 2
    assert hanging.reached.is_set()


def test_of_many_failures_that_wait_the_log_has_the_traceback_as_text(work, monkeypatch, events):
    monkeypatch.setattr(job_log, "WHOLE_AT_MOST", 0)
    jobs.fail.using(max_attempts=1).enqueue("broken")
    work()
    (record,) = events("worker.attempt_failed")
    assert record.exc_info is None
    assert "failed with ValueError" in record.message.splitlines()[0]
    assert record.message.splitlines()[-1] == "ValueError: broken"


def test_the_line_of_a_failure_is_logged_in_the_context_of_its_run(work, handler):
    """Where traces, scopes and JobFilter are."""
    seen = []
    handler(lambda record: seen.append((record.event, current_job.get())))
    result = jobs.fail.using(max_attempts=1).enqueue()
    work()
    assert [run.job.id for event, run in seen if event == "worker.attempt_failed"] == [result.id]


def test_a_handler_that_hangs_stops_neither_heartbeat_nor_maintenance(background_worker, hanging, settings):
    settings.PGONLY = {"LEASE_SECONDS": 2}
    worker = background_worker()
    make_running(make_worker(silent_for=HOUR).id, lease_expires_at=ago(HOUR))
    assert hanging.reached.wait(10)
    began = time.monotonic()
    wait_for(lambda: worker.heartbeat.beaten_at > began, seconds=10, what="a beat")
    old = make(state=State.SUCCEEDED, finished_at=ago(HOUR), delete_after=ago(HOUR))
    for duty in worker.housekeeper.duties:
        worker.housekeeper._plan(duty, 0.0)
    wait_for(lambda: not Job.objects.filter(pk=old.pk).exists())
    hanging.opened.set()


def test_ends_that_a_hanging_handler_leaves_behind_are_counted(
    add_many, hanging, monkeypatch, events, own_and_summed
):
    monkeypatch.setattr(job_log, "WAITING_AT_MOST", 50)

    def let_go():
        wait_for(lambda: Job.objects.filter(state=State.SUCCEEDED).count() == 300)
        hanging.opened.set()

    with beside(let_go):
        add_many(300)
    left_out = sum(record.jobs for record in events("worker.ends_not_logged"))
    assert sum(own_and_summed()) + left_out == 300
    assert left_out > 0


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_handler_that_raises_anything_ends_neither_the_worker_nor_its_log(
    add_many, handler, own_and_summed, error
):
    refused = []

    def refuse(record):
        """All, up to the first end."""
        if "worker.job_ended" not in refused:
            refused.append(record.event)
            raise error("the handler's")

    handler(refuse)
    assert add_many(20).code == ExitCode.STOPPED
    assert Job.objects.filter(state=State.SUCCEEDED).count() == 20
    assert own_and_summed() == (19, 0)


def test_a_handler_that_raises_anything_for_many_jobs_ends_no_log(background_worker, handler, monkeypatch):
    monkeypatch.setattr(job_log, "OWN_LINES_PER_SECOND", 0)
    refused = []

    def refuse(record):
        if record.event == "worker.jobs_succeeded":
            refused.append(record)
            raise KeyboardInterrupt

    handler(refuse)
    background_worker()
    for count in (1, 2):
        jobs.add.enqueue(1)
        wait_for(lambda count=count: len(refused) == count, seconds=10, what="a line for many jobs")


def test_ends_that_are_left_out_are_counted_where_nothing_else_is_logged(add_many, monkeypatch, events):
    monkeypatch.setattr(job_log, "WAITING_AT_MOST", 0)
    add_many(5)
    assert [record.jobs for record in events("worker.ends_not_logged")] == [5]


def test_without_a_thread_every_end_is_logged_at_the_stop(add_many, monkeypatch, own_and_summed):
    class NoThread(threading.Thread):
        def start(self):
            if self.name == "pgonly-log":
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(lanes, "threading", SimpleNamespace(**vars(threading) | {"Thread": NoThread}))
    add_many(300)
    assert sum(own_and_summed()) == 300


def test_what_is_said_while_a_handler_hangs_at_the_end_waits_for_it_in_its_thread():
    is_over, said, log = threading.Event(), [], job_log.EndLog()
    with log.takes_events():
        log.say(lambda: is_over.wait(20))
    log.close(0.05)
    log.say(lambda: said.append(threading.current_thread().name))
    assert said == []
    is_over.set()
    wait_for(lambda: said == ["pgonly-log"])
    wait_for(lambda: "pgonly-log" not in {each.name for each in threading.enumerate()})
    log.say(lambda: said.append(threading.current_thread().name))
    assert said[1:] == [threading.current_thread().name]


def test_a_line_has_the_time_at_which_its_job_ended(background_worker, handler):
    is_over, records = threading.Event(), []

    def be_slow(record):
        is_over.wait(20)
        records.append(record)

    handler(be_slow)
    worker = background_worker()
    for number in range(2):
        jobs.add.enqueue(number).wait(10)
    wait_for(lambda: worker.calls.log._lane.waiting == 1)
    until = time.time()
    wait_for(lambda: time.time() > until + 0.1)
    is_over.set()
    wait_for(lambda: len(records) == 2)
    assert all(record.created <= until for record in records)
    assert [record.msecs for record in records] == [int(record.created % 1 * 1000) for record in records]


def test_lines_that_a_slow_handler_leaves_behind_at_a_stop_are_told_of_on_stderr(capfd):
    is_over, log = threading.Event(), job_log.EndLog()
    with log.takes_events():
        log.say(lambda: is_over.wait(20))
    log.close(0.05)
    is_over.set()
    assert "A handler of the log is too slow" in capfd.readouterr().err


def test_of_many_ends_that_wait_the_data_of_the_jobs_is_not_kept(run_of, events, monkeypatch):
    monkeypatch.setattr(job_log, "WHOLE_AT_MOST", 1)
    is_over, log = threading.Event(), job_log.EndLog()
    log.say(lambda: is_over.wait(20))
    wait_for(lambda: log._lane.waiting == 0)
    kept, ids = [], []
    for _ in range(3):
        run = run_of(jobs.add, "large")
        log.note(EndedRun(run, succeeded(run, "large"), 0.5))
        log.send()
        ids.append(run.job.id)
        kept.append(weakref.ref(run))
    del run
    gc.collect()
    assert [ref() is not None for ref in kept] == [True, False, False]
    is_over.set()
    log.close(10)
    lines = events("worker.job_ended")
    assert [(line.job_id, line.seconds, line.outcome) for line in lines] == [
        (job_id, 0.5, "succeeded") for job_id in ids
    ]
