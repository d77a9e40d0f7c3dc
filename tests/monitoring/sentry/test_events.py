"""Events of real workers, as a transport in memory gets them."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import timedelta

import pytest
import sentry_sdk
from django.utils import timezone

from pgonly_django.events import emit
from pgonly_django.models import Job, State
from pgonly_django.monitoring.sentry import PgonlyIntegration
from pgonly_django.testing import drain
from pgonly_django.worker.inbox import RESCUED_FAILED, Notification
from tests.jobs import add, reported, sleep_in_slices, stubborn, traced
from tests.monitoring.sentry.conftest import error_of
from tests.queue.rows import make
from tests.tasks.calls import IMMEDIATE
from tests.waiting import wait_for


def test_without_the_integration_a_failed_job_is_two_events(start, run_jobs):
    """What it is there for: this package's log record, and that of Django's receiver of task_finished."""
    sent = start()
    reported.fail_with.enqueue(1)
    run_jobs()
    assert Counter(event["logger"] for event in sent.events if "exception" in event) == {
        "pgonly_django.worker": 1,
        "django.tasks" if "django.tasks" in sys.modules else "django_tasks": 1,
    }


@pytest.mark.parametrize("task", [reported.fail_with, reported.fail_async, reported.fail_atomic])
def test_a_failed_job_is_one_event_with_the_job(sent, work, task):
    result = task.using(queue_name="mail", metadata={"tenant": "acme", "api_token": "sk"}).enqueue(7)
    worker = work()
    (event,) = sent.events
    assert error_of(event) == ("ValueError", "7")
    assert event["exception"]["values"][0]["mechanism"] == {"type": "pgonly_django", "handled": False}
    name = task.module_path
    assert event["tags"] == {"job_id": result.id, "task": name, "queue": "mail", "attempt": "1"}
    assert event["transaction"] == name
    job = event["contexts"]["job"]
    assert job["args"] == "[7]"
    assert job["metadata"] == '{"tenant": "acme", "api_token": "••••••"}'
    assert (job["outcome"], job["worker"]) == ("failed", worker.options.name)
    assert event["exception"]["values"][0]["stacktrace"]["frames"][-1]["function"] == name.rpartition(".")[2]


def test_secrets_among_the_arguments_are_masked_and_all_can_be_left_out(sent, start, run_jobs):
    reported.fail_with.enqueue(7, password="s3cr3t")
    run_jobs()
    assert sent.events[0]["contexts"]["job"]["kwargs"] == '{"password": "••••••"}'
    assert "s3cr3t" not in str(sent.events[0]["contexts"])
    without = start(PgonlyIntegration(arguments=False))
    reported.fail_with.enqueue(7)
    run_jobs()
    assert not {"args", "kwargs", "metadata"} & set(without.events[0]["contexts"]["job"])


@pytest.mark.parametrize("each", [False, True])
def test_an_attempt_that_is_tried_again_is_an_event_only_where_that_is_wanted(start, run_jobs, each):
    sent = start(PgonlyIntegration(each_attempt=each))
    reported.fail_thrice.enqueue()
    run_jobs()
    assert [event["tags"]["attempt"] for event in sent.events] == (["1", "2", "3"] if each else ["3"])


@pytest.mark.django_db
def test_drain_reports_as_a_worker_does(sent):
    reported.fail_with.enqueue(7)
    drain(raise_errors=False)
    assert [error_of(event) for event in sent.events] == [("ValueError", "7")]


@pytest.mark.parametrize("how", ["snooze", "hold", "discard"])
def test_what_a_job_asks_for_is_no_event(sent, run_jobs, how):
    traced.end.enqueue(how)
    run_jobs()
    assert sent.events == []


def test_a_planned_stop_and_a_cancellation_are_no_event(sent, background_worker, marks):
    worker = background_worker(threads=2, grace_seconds=0.3)
    stopped, cancelled = sleep_in_slices.enqueue("a"), sleep_in_slices.enqueue("b")
    wait_for(lambda: len(marks()) == 2)
    assert cancelled.cancel()
    cancelled.wait(10)
    worker.stop_now()
    assert worker.left.wait(10)
    stopped.refresh()
    assert stopped.job.state == State.READY
    assert sent.events == []


def test_scopes_are_of_one_job_each_in_that_of_the_process(sent, run_jobs):
    sentry_sdk.set_tag("region", "eu")
    for name in ("ann", "bob", "eve"):
        reported.fail_as_user.enqueue(name)
    reported.fail_with.enqueue(7)
    run_jobs()
    *named, last = sent.events
    for event, name in zip(named, ("ann", "bob", "eve"), strict=True):
        assert (event["user"], event["tags"]["of"]) == ({"username": name}, name)
        crumbs = [crumb["message"] for crumb in event["breadcrumbs"]["values"]]
        assert [crumb for crumb in crumbs if "crumb of" in crumb] == [f"crumb of {name}"]
    assert "user" not in last
    assert "of" not in last["tags"]
    assert {event["tags"]["region"] for event in sent.events} == {"eu"}


@pytest.mark.parametrize("task", [reported.fail_with, reported.fail_async])
def test_a_tick_s_jobs_have_nothing_of_the_scope_around_it(sent, tick, task):
    task.enqueue(7)
    with sentry_sdk.isolation_scope():
        sentry_sdk.set_user({"username": "of the request"})
        sentry_sdk.set_tag("of", "the request")
        assert tick()["failed"] == 1
    (event,) = sent.events
    assert "user" not in event
    assert "of" not in event["tags"]


@pytest.mark.parametrize("how", ["capture", "log"])
@pytest.mark.parametrize("task", [reported.say_and_fail, reported.say_and_fail_async])
def test_what_a_job_or_its_on_failure_has_reported_itself_is_not_reported_again(sent, run_jobs, how, task):
    task.enqueue(how), reported.fail_and_capture.enqueue()
    run_jobs()
    event, _ = sorted(sent.events, key=lambda each: each["tags"]["task"] != task.module_path)
    assert error_of(event) == ("ValueError", how)
    assert event["tags"]["task"] == task.module_path


def test_jobs_that_raise_the_same_object_are_an_event_each(sent, run_jobs):
    jobs = [reported.fail_with_one_error.enqueue() for _ in range(3)]
    run_jobs()
    assert {event["tags"]["job_id"] for event in sent.events} == {job.id for job in jobs}
    assert len(sent.events) == len(jobs)


@pytest.mark.slow
def test_a_job_that_is_cut_off_is_one_event(sent, background_worker, marks):
    background_worker(threads=2, grace_seconds=0.2)
    result = stubborn.using(max_runtime=timedelta(seconds=0.2), max_attempts=1).enqueue("a", 4)
    result.wait(15)
    wait_for(lambda: sent.events)
    (event,) = [each for each in sent.events if each.get("logger") != "asyncio"]  # of an earlier test's loop
    assert event["message"] == "tests.jobs.stubborn timed out"
    assert event["tags"]["job_id"] == result.id


def test_a_job_that_has_killed_its_workers_is_one_event(sent, background_worker):
    worker = background_worker()
    job = make(state=State.FAILED, task="tests.jobs.add", args=[1], crashes=3)
    worker.inbox.put(Notification(RESCUED_FAILED, str(job.pk)))
    wait_for(lambda: sent.events)
    (event,) = sent.events
    assert event["message"] == "tests.jobs.add failed: its worker died 3 times while it ran"
    outcome = event["contexts"]["job"]["outcome"]
    assert (outcome, type(outcome)) == ("crashed", str)  # as of every other run: it may be written as YAML
    assert event["tags"]["job_id"] == str(job.pk)


def test_a_job_whose_task_no_worker_knows_is_one_event_with_its_arguments_masked(sent, run_jobs):
    add.enqueue("s3cr3t")
    since = (timezone.now() - timedelta(hours=2)).isoformat()
    Job.objects.update(task="gone.away", errors=[{"outcome": "postponed", "since": since}])
    run_jobs()
    (event,) = sent.events
    assert event["exception"]["values"][-1]["type"] == "UnknownTaskError"
    assert event["tags"]["task"] == "gone.away"
    assert event["contexts"]["job"]["args"] == '["••••••"]'


def test_other_errors_of_the_worker_are_events_as_before(sent, db):
    emit("worker.heartbeat_failed", "No heartbeat.", level=40)
    assert [event["logentry"]["message"] for event in sent.events] == ["No heartbeat."]


def test_a_task_of_another_backend_is_reported_as_before(sent, db, settings):
    settings.TASKS = {**settings.TASKS, "now": {"BACKEND": IMMEDIATE}}
    reported.fail_with.using(backend="now").enqueue(1)
    assert len(sent.events) == 1
