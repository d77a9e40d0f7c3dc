"""Spans of real workers, with the in-memory exporter of the SDK."""

from __future__ import annotations

import pytest
from django.db import connection, transaction
from django.http import HttpResponse, JsonResponse
from django.urls import path
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from pgonly_django import enqueue_many
from pgonly_django.models import Job
from pgonly_django.monitoring.opentelemetry import instrument, uninstrument
from pgonly_django.testing import drain
from tests.jobs import add, traced

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def enqueue_view(request):
    return JsonResponse({"id": traced.say.enqueue().id})


def commit_view(request):
    with transaction.atomic():
        transaction.on_commit(traced.say.enqueue)
    return HttpResponse()


urlpatterns = [path("enqueue/", enqueue_view), path("commit/", commit_view)]


@pytest.fixture
def provider():
    provider = TracerProvider()
    yield provider
    provider.shutdown()


@pytest.fixture
def exporter(provider):
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(tracer_provider=provider)
    yield exporter
    uninstrument()


@pytest.fixture
def requests(exporter, provider):
    DjangoInstrumentor().instrument(tracer_provider=provider)
    yield
    DjangoInstrumentor().uninstrument()


@pytest.fixture
def in_trace(provider):
    """A span around the test, with baggage."""
    with provider.get_tracer("test").start_as_current_span("test") as span:
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        yield span.get_span_context()
        context.detach(token)


def named(exporter, start):
    return [span for span in exporter.get_finished_spans() if span.name.startswith(start)]


def ids(span):
    return [f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"]


def result_of(task_result):
    task_result.refresh()
    return task_result.return_value


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("address", ["/enqueue/", "/commit/"])
def test_a_trace_leads_from_a_request_to_its_job(work, requests, exporter, client, address):
    assert client.get(address).status_code == 200
    work()
    (request,), (enqueued,), (ran,) = (named(exporter, name) for name in ("GET", "enqueue", "run"))
    assert enqueued.parent.span_id == request.context.span_id
    assert ran.parent.span_id == enqueued.context.span_id
    assert {span.context.trace_id for span in (request, enqueued, ran)} == {request.context.trace_id}
    assert (request.kind, enqueued.kind, ran.kind) == (SpanKind.SERVER, SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert Job.objects.get().result == ids(ran)


def test_the_spans_have_the_names_of_the_conventions_for_messaging(work, exporter):
    result = traced.say.using(queue_name="mail").enqueue()
    worker = work()
    (enqueued,), (ran,) = named(exporter, "enqueue"), named(exporter, "run")
    assert enqueued.name == "enqueue tests.jobs.traced.say"
    assert dict(enqueued.attributes) == {
        "messaging.system": "pgonly_django", "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send", "messaging.destination.name": "mail",
        "messaging.message.id": result.id, "pgonly.task": "tests.jobs.traced.say", "pgonly.is_duplicate": False,
    }  # fmt: skip
    attributes = dict(ran.attributes)
    assert 0 <= attributes.pop("pgonly.waited_seconds") < 60
    assert attributes == {
        "messaging.system": "pgonly_django", "messaging.operation.name": "run",
        "messaging.operation.type": "process", "messaging.destination.name": "mail",
        "messaging.message.id": result.id, "messaging.client.id": worker.options.name,
        "pgonly.task": "tests.jobs.traced.say", "pgonly.attempt": 1, "pgonly.max_attempts": 8,
        "pgonly.outcome": "succeeded",
    }  # fmt: skip


@pytest.mark.parametrize("task", [traced.say, traced.say_async, traced.say_atomic, traced.start_thread])
def test_the_job_runs_inside_its_span(work, exporter, in_trace, task):
    result = task.enqueue()
    work()
    (ran,) = named(exporter, "run")
    assert result_of(result) == ids(ran)
    assert ran.context.trace_id == in_trace.trace_id


@pytest.mark.django_db
def test_drain_runs_jobs_in_the_trace_of_their_enqueue_and_not_of_the_test(exporter, provider):
    with provider.get_tracer("test").start_as_current_span("first") as first:
        result = traced.say.enqueue()
    with provider.get_tracer("test").start_as_current_span("second") as second:
        drain()
        assert trace.get_current_span() is second
    assert result_of(result)[0] == f"{first.get_span_context().trace_id:032x}"


def test_a_tick_runs_jobs_outside_of_the_trace_of_its_request(tick, requests, exporter):
    result = traced.say.enqueue()
    assert tick()["done"] == 1
    (request,), (enqueued,), (ran,) = (named(exporter, name) for name in ("GET", "enqueue", "run"))
    assert ran.parent.span_id == enqueued.context.span_id
    assert ran.context.trace_id != request.context.trace_id
    assert result_of(result) == ids(ran)


@pytest.mark.parametrize("metadata", [None, {"traceparent": 5}, {"traceparent": "x"}])
def test_a_job_that_no_trace_has_enqueued_begins_one(work, exporter, metadata):
    result = traced.say.enqueue()
    Job.objects.update(metadata=metadata)
    work()
    (ran,) = named(exporter, "run")
    assert ran.parent is None
    assert result_of(result) == ids(ran)


def test_many_calls_are_one_span_and_each_run_its_child(work, exporter, in_trace):
    enqueue_many([(traced.say, []), (traced.say, [], {}, {"a": 1}), (add, [1])])
    work()
    (enqueued,), ran = named(exporter, "enqueue"), named(exporter, "run")
    assert enqueued.name == "enqueue default"
    assert enqueued.attributes["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in enqueued.attributes
    assert {span.parent.span_id for span in ran} == {enqueued.context.span_id}
    assert len(ran) == 3


def test_a_trace_that_the_call_brings_along_is_continued_and_linked(work, exporter, in_trace):
    result = traced.say.using(metadata={"traceparent": PARENT}).enqueue()
    (enqueued,) = named(exporter, "enqueue")
    assert [f"{link.context.trace_id:032x}" for link in enqueued.links] == [TRACE]
    assert dict(result.metadata) == {"traceparent": PARENT}, "no header of another trace beside it"
    work()
    assert result_of(result)[0] == TRACE


def test_each_attempt_is_a_span_in_the_same_trace(work, exporter, in_trace):
    traced.fail_twice.enqueue()
    work()
    ran = named(exporter, "run")
    assert [span.attributes["pgonly.attempt"] for span in ran] == [1, 2, 3]
    assert [span.attributes["pgonly.outcome"] for span in ran] == ["failed", "failed", "succeeded"]
    assert [span.status.status_code for span in ran] == [StatusCode.ERROR] * 2 + [StatusCode.UNSET]
    assert {span.context.trace_id for span in ran} == {in_trace.trace_id}
    (event,) = ran[0].events
    assert event.attributes["exception.message"] == "no"
    assert ran[0].attributes["error.type"] == "builtins.ValueError"


@pytest.mark.parametrize(
    ("how", "outcome"),
    [("snooze", "snoozed"), ("hold", "held"), ("discard", "discarded"), ("retry", "failed")],
)
def test_what_a_job_asks_for_is_no_error(work, exporter, how, outcome):
    traced.end.enqueue(how)
    work()
    ran = named(exporter, "run")[0]
    assert ran.attributes["pgonly.outcome"] == outcome
    assert (ran.status.status_code is StatusCode.ERROR) == (outcome == "failed")


@pytest.mark.parametrize(("task", "names"), [(traced.walk, ["one", "two"]), (traced.walk_async, ["one"])])
def test_a_step_that_is_called_is_a_span_also_in_a_thread(work, exporter, in_trace, task, names):
    result = task.enqueue()
    work()
    (ran,), steps = named(exporter, "run"), named(exporter, "step")
    assert [step.attributes["pgonly.step"] for step in steps] == names
    assert {step.parent.span_id for step in steps} == {ran.context.span_id}
    assert result_of(result) == ids(steps[0])


def test_a_step_that_raises_is_an_error_and_its_job_too(work, exporter):
    traced.walk_badly.enqueue()
    work()
    (ran,), (step,) = named(exporter, "run"), named(exporter, "step")
    assert ran.status.status_code is step.status.status_code is StatusCode.ERROR
    assert step.attributes["error.type"] == "builtins.ValueError"


def test_baggage_reaches_the_job_and_what_it_enqueues(work, exporter, in_trace):
    result = traced.enqueue_another.enqueue()
    work()
    trace_id, span_id, other = result_of(result)
    assert Job.objects.get(pk=other).result == {"tenant": "acme"}
    (_, enqueued) = named(exporter, "enqueue")
    assert ids(enqueued)[0] == trace_id
    assert f"{enqueued.parent.span_id:016x}" == span_id


def test_baggage_that_does_not_fit_is_left_out_and_the_trace_is_carried(exporter, in_trace, caplog, db):
    token = context.attach(baggage.set_baggage("more", "x" * 4050, baggage.set_baggage("big", "x" * 4050)))
    own = {"a": "y" * 8000}
    alone, beside = traced.say.enqueue(), traced.say.using(metadata=own).enqueue()
    context.detach(token)
    assert set(alone.metadata) == {"traceparent"}
    assert set(beside.metadata) == {"a", "traceparent"}
    assert "does not carry the header 'baggage'" in caplog.text


def test_to_instrument_twice_makes_no_second_span_and_the_last_call_counts(
    work, exporter, provider, in_trace
):
    instrument(tracer_provider=provider, steps=False)
    traced.walk.enqueue()
    work()
    assert len(named(exporter, "enqueue")) == len(named(exporter, "run")) == 1
    assert named(exporter, "step") == []
    uninstrument(), uninstrument()
    assert traced.say.enqueue().job.metadata is None


def test_a_run_can_begin_a_trace_that_is_linked_to_the_enqueue_and_tell_of_its_start(
    work, exporter, provider, in_trace
):
    instrument(tracer_provider=provider, new_traces=True, starts=True)
    result = traced.say_baggage.enqueue()
    work()
    (enqueued,), (start,), (ran,) = (named(exporter, name) for name in ("enqueue", "start", "run"))
    assert start.parent.span_id == ran.context.span_id
    assert start.end_time < ran.end_time
    assert ran.parent is None
    assert ran.context.trace_id != in_trace.trace_id
    assert [link.context.span_id for link in ran.links] == [enqueued.context.span_id]
    assert result_of(result) == {"tenant": "acme"}


def test_a_duplicate_names_the_job_that_was_there(exporter, db):
    unique = add.using(unique=True)
    first, second = unique.enqueue(1), unique.enqueue(1)
    spans = named(exporter, "enqueue")
    assert [span.attributes["messaging.message.id"] for span in spans] == [first.id] * 2
    assert [span.attributes["pgonly.is_duplicate"] for span in spans] == [False, True]
    assert second.is_duplicate


def test_an_enqueue_that_is_refused_by_the_database_is_an_error(exporter, db):
    def refuse(execute, *args):
        raise LookupError

    with connection.execute_wrapper(refuse), pytest.raises(LookupError):
        enqueue_many([(add, [1])])
    (enqueued,) = named(exporter, "enqueue")
    assert enqueued.status.status_code is StatusCode.ERROR


def test_a_task_that_is_not_known_has_a_span_without_an_error(work, exporter):
    result = add.enqueue(1)
    Job.objects.update(task="gone.away")
    work()
    (ran,) = named(exporter, "run gone.away")
    assert ran.attributes["pgonly.outcome"] == "postponed"
    assert ran.status.status_code is StatusCode.UNSET
    assert ran.attributes["messaging.message.id"] == result.id


def test_without_an_sdk_jobs_run_and_hand_on_the_trace_that_they_are_given(work):
    instrument()
    try:
        alone = add.enqueue(1)
        token = context.attach(propagate.extract({"traceparent": PARENT}))
        result = traced.say.enqueue()
        context.detach(token)
        work()
    finally:
        uninstrument()
    assert alone.job.metadata is None
    assert result.job.metadata == {"traceparent": PARENT}
    assert result_of(result)[0] == TRACE
