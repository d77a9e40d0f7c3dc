"""Events of real workers, as a transport in memory gets them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from datetime import timedelta

import pytest
import sentry_sdk
from django.core.handlers.wsgi import WSGIHandler
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.http import JsonResponse
from django.test import RequestFactory
from django.urls import path
from django.utils import timezone
from opentelemetry import baggage, context
from sentry_sdk import integrations
from sentry_sdk import scope as scopes
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.transport import Transport

from pgonly_django import enqueue_many
from pgonly_django.events import emit
from pgonly_django.models import Job, State
from pgonly_django.monitoring.opentelemetry import instrument, uninstrument
from pgonly_django.monitoring.sentry import PgonlyIntegration
from pgonly_django.testing import drain
from pgonly_django.worker.duties.rescue import RESCUED_FAILED
from tests.jobs import add, count_to, reported, sleep_in_slices, stubborn, traced
from tests.queue.rows import make
from tests.waiting import wait_for

REPLACED = {
    CursorWrapper: ("execute", "executemany"),
    BaseDatabaseWrapper: ("connect", "_commit", "_rollback"),
}


class InMemory(Transport):
    def __init__(self):
        super().__init__()
        self.items = []

    def capture_envelope(self, envelope):
        self.items += envelope.items

    def of(self, kind):
        return [item.payload.json for item in self.items if item.type == kind]

    @property
    def events(self):
        return self.of("event")


@pytest.fixture(scope="module", autouse=True)
def unpatched_database():
    """Sentry replaces these methods at the first init() of a process, and no client takes that back. With TEST_SCHEMA
    the statements of later tests would look as if Sentry had written them: see tests/in_schema.py."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, names in REPLACED.items():
            for name in names:
                patch.setattr(owner, name, getattr(owner, name))
        yield


@pytest.fixture
def start():
    """`start(PgonlyIntegration(), ...)`: a client with these and all that it has by default."""

    def init(*integrations, **options):
        transport = InMemory()
        for scope in (sentry_sdk.get_current_scope(), sentry_sdk.get_isolation_scope()):
            scope.clear()  # of what another test has left
        sentry_sdk.init(
            dsn="http://key@127.0.0.1:9/1", transport=transport, integrations=[DjangoIntegration(), *integrations],
            auto_enabling_integrations=False, **options,
        )  # fmt: skip
        return transport

    yield init
    sentry_sdk.get_global_scope().set_client(None)


@pytest.fixture
def sent(start):
    return start(PgonlyIntegration())


def error_of(event):
    (value,) = event["exception"]["values"]
    return value["type"], value["value"]


def test_without_the_integration_a_failed_job_is_two_events(start, work):
    """What it is there for: this package's log record, and that of Django's receiver of task_finished."""
    sent = start()
    reported.fail_with.enqueue(1)
    work()
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


def test_secrets_among_the_arguments_are_masked(sent, work):
    reported.fail_with.enqueue(7, password="s3cr3t")
    work()
    assert sent.events[0]["contexts"]["job"]["kwargs"] == '{"password": "••••••"}'
    assert "s3cr3t" not in str(sent.events[0]["contexts"])


def test_the_arguments_can_be_left_out(start, work):
    sent = start(PgonlyIntegration(arguments=False))
    reported.fail_with.enqueue(7)
    work()
    assert not {"args", "kwargs", "metadata"} & set(sent.events[0]["contexts"]["job"])


@pytest.mark.django_db
def test_drain_reports_as_a_worker_does(sent):
    reported.fail_with.enqueue(7)
    drain(raise_errors=False)
    assert [error_of(event) for event in sent.events] == [("ValueError", "7")]


def test_attempts_that_are_tried_again_are_no_event(sent, work):
    reported.fail_thrice.enqueue()
    work()
    (event,) = sent.events
    assert event["tags"]["attempt"] == "3"


def test_each_attempt_can_be_an_event(start, work):
    sent = start(PgonlyIntegration(each_attempt=True))
    reported.fail_thrice.enqueue()
    work()
    assert [event["tags"]["attempt"] for event in sent.events] == ["1", "2", "3"]


@pytest.fixture
def nothing_set_up(monkeypatch):
    """For Sentry this process begins anew, as far as Dedupe and this integration go."""
    ours = {"dedupe", PgonlyIntegration.identifier}
    for name in ("_processed_integrations", "_installed_integrations"):
        monkeypatch.setattr(integrations, name, getattr(integrations, name) - ours)
    monkeypatch.setattr(scopes, "global_event_processors", [])


@pytest.mark.usefixtures("nothing_set_up")
@pytest.mark.parametrize("task", [reported.fail_with, reported.fail_async])
def test_an_earlier_init_without_the_integration_takes_no_event_away(start, work, task):
    start()
    sent = start(PgonlyIntegration())
    task.enqueue(7)
    work()
    assert [error_of(event) for event in sent.events] == [("ValueError", "7")]


@pytest.mark.parametrize("how", ["snooze", "hold", "discard"])
def test_what_a_job_asks_for_is_no_event(sent, work, how):
    traced.end.enqueue(how)
    work()
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


def test_scopes_are_of_one_job_each(sent, work):
    for name in ("ann", "bob", "eve"):
        reported.fail_as_user.enqueue(name)
    reported.fail_with.enqueue(7)
    work(threads=1)
    *named, last = sent.events
    for event, name in zip(named, ("ann", "bob", "eve"), strict=True):
        assert (event["user"], event["tags"]["of"]) == ({"username": name}, name)
        crumbs = [crumb["message"] for crumb in event["breadcrumbs"]["values"]]
        assert [crumb for crumb in crumbs if "crumb of" in crumb] == [f"crumb of {name}"]
    assert "user" not in last
    assert "of" not in last["tags"]


@pytest.mark.parametrize("task", [reported.fail_with, reported.fail_async])
def test_what_is_set_at_the_start_of_the_process_holds_for_its_jobs(sent, work, task):
    sentry_sdk.set_tag("region", "eu")
    task.enqueue(7)
    work()
    assert [event["tags"]["region"] for event in sent.events] == ["eu"]


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
def test_what_a_job_has_reported_itself_is_not_reported_again(sent, work, how, task):
    task.enqueue(how)
    work()
    (event,) = sent.events
    assert error_of(event) == ("ValueError", how)
    assert event["tags"]["task"] == task.module_path


def test_what_on_failure_captures_is_not_reported_again(sent, work):
    reported.fail_and_capture.enqueue()
    work()
    assert len(sent.events) == 1


def test_jobs_that_raise_the_same_object_are_an_event_each(sent, work):
    jobs = [reported.fail_with_one_error.enqueue() for _ in range(3)]
    work()
    assert {event["tags"]["job_id"] for event in sent.events} == {job.id for job in jobs}
    assert len(sent.events) == len(jobs)


def test_a_job_that_is_cut_off_is_one_event(sent, background_worker, marks):
    background_worker(threads=2, grace_seconds=0.2)
    result = stubborn.using(max_runtime=timedelta(seconds=0.2), max_attempts=1).enqueue("a", 4)
    result.wait(15)
    wait_for(lambda: sent.events)
    (event,) = sent.events
    assert event["message"] == "tests.jobs.stubborn timed out"
    assert event["tags"]["job_id"] == result.id


def test_a_job_that_has_killed_its_workers_is_one_event(sent, background_worker):
    worker = background_worker()
    job = make(state=State.FAILED, task="tests.jobs.add", args=[1], crashes=3)
    worker.payloads.take(f"{RESCUED_FAILED} {job.pk}")
    wait_for(lambda: sent.events)
    (event,) = sent.events
    assert event["message"] == "tests.jobs.add failed: its worker died 3 times while it ran"
    assert event["contexts"]["job"]["outcome"] == "crashed"
    assert event["tags"]["job_id"] == str(job.pk)


def test_a_job_whose_task_no_worker_knows_is_one_event_with_its_arguments_masked(sent, work):
    add.enqueue("s3cr3t")
    since = (timezone.now() - timedelta(hours=2)).isoformat()
    Job.objects.update(task="gone.away", errors=[{"outcome": "postponed", "since": since}])
    work()
    (event,) = sent.events
    assert event["exception"]["values"][-1]["type"] == "UnknownTaskError"
    assert event["tags"]["task"] == "gone.away"
    assert event["contexts"]["job"]["args"] == '["••••••"]'


def test_other_errors_of_the_worker_are_events_as_before(sent, db):
    emit("worker.heartbeat_failed", "No heartbeat.", level=40)
    assert [event["logentry"]["message"] for event in sent.events] == ["No heartbeat."]


def test_a_task_of_another_backend_is_reported_as_before(sent, db, settings):
    immediate = (
        f"{type(add.get_backend()).__mro__[1].__module__.rpartition('.')[0]}.immediate.ImmediateBackend"
    )
    settings.TASKS = {**settings.TASKS, "now": {"BACKEND": immediate}}
    reported.fail_with.using(backend="now").enqueue(1)
    assert len(sent.events) == 1


# Traces.


def request_view(request):
    sentry_sdk.set_user({"username": "of the request"})
    enqueue_many([(reported.fail_with, [2])])
    return JsonResponse({"id": reported.fail_with.enqueue(1).id})


urlpatterns = [path("request/", request_view)]


def get(address):
    """Through WSGI, where Sentry begins its transaction; the test client is no WSGI server."""
    body = WSGIHandler()(RequestFactory().get(address).environ, lambda *_: None)
    b"".join(body)
    body.close()


@pytest.mark.urls(__name__)
def test_a_trace_leads_from_a_request_to_its_job_and_its_event(start, work):
    sent = start(PgonlyIntegration(), traces_sample_rate=1.0)
    get("/request/")
    work()
    request, *jobs = sent.of("transaction")
    assert request["transaction"] == "/request/"
    assert [job["contexts"]["trace"]["op"] for job in jobs] == ["queue.process"] * 2
    traces = {each["contexts"]["trace"]["trace_id"] for each in (request, *jobs, *sent.events)}
    assert len(traces) == 1
    published = {span["span_id"] for span in request["spans"] if span["op"] == "queue.publish"}
    assert {job["contexts"]["trace"]["parent_span_id"] for job in jobs} == published
    assert {job["contexts"]["trace"]["status"] for job in jobs} == {"internal_error"}
    assert {event["contexts"]["trace"]["span_id"] for event in sent.events} == {
        job["contexts"]["trace"]["span_id"] for job in jobs
    }
    assert all("user" not in event for event in sent.events), "the user of the request is not that of the job"
    data = jobs[0]["contexts"]["trace"]["data"]
    assert data["messaging.destination.name"] == "default"
    assert data["messaging.message.retry.count"] == 0


@pytest.mark.urls(__name__)
def test_without_tracing_the_event_of_a_job_has_the_trace_of_its_request(sent, work):
    get("/request/")
    headers = Job.objects.first().metadata["sentry-trace"]
    work()
    assert {event["contexts"]["trace"]["trace_id"] for event in sent.events} == {headers.partition("-")[0]}
    assert sent.of("transaction") == []


def test_traces_can_be_left_alone(start, work):
    sent = start(PgonlyIntegration(traces=False), traces_sample_rate=1.0)
    result = add.enqueue(1)
    assert result.job.metadata is None
    work()
    assert len(sent.of("transaction")) == 1


def test_steps_are_spans(start, work):
    sent = start(PgonlyIntegration(), traces_sample_rate=1.0)
    count_to.enqueue(2)
    work()
    (job,) = sent.of("transaction")
    assert [span["description"] for span in job["spans"] if span["op"] == "queue.step"] == [
        "square 0",
        "square 1",
    ]


def test_both_tracers_carry_their_headers_and_the_baggage_of_both(start, db):
    start(PgonlyIntegration(), traces_sample_rate=1.0)
    instrument()
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    with sentry_sdk.start_transaction(name="request"):
        metadata = add.enqueue(1).metadata
    context.detach(token)
    uninstrument()
    assert "sentry-trace" in metadata
    assert {each.partition("=")[0] for each in metadata["baggage"].split(",")} >= {
        "tenant",
        "sentry-trace_id",
    }


def test_without_a_client_nothing_is_carried_and_nothing_is_said(start, work):
    start(PgonlyIntegration())
    sentry_sdk.get_global_scope().set_client(None)
    result = add.enqueue(1)
    work()
    assert result.job.metadata is None


def test_what_waits_is_sent_when_the_worker_stops(sent, work, monkeypatch):
    flushed = []
    monkeypatch.setattr(InMemory, "flush", lambda self, *args, **kwargs: flushed.append(args))
    work()
    assert flushed


def test_it_can_be_set_up_in_the_settings(tmp_path):
    (tmp_path / "early_settings.py").write_text(
        "import sentry_sdk\n"
        "from pgonly_django.monitoring.sentry import PgonlyIntegration\n"
        "from tests.settings import *\n"
        "sentry_sdk.init(integrations=[PgonlyIntegration()])\n"
    )
    code = "import django; django.setup(); from tests.jobs import add; print(add.module_path)"
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "early_settings"}
    env["PYTHONPATH"] = f"{tmp_path}:{env.get('PYTHONPATH', '')}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert done.stdout == "tests.jobs.add\n", done.stderr


def test_without_the_package_it_says_what_to_install():
    code = "import sys; sys.modules['sentry_sdk'] = None; import pgonly_django.monitoring.sentry"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'pgonly-django[sentry]'" in done.stderr
