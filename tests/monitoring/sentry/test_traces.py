"""The trace of a request goes on in its jobs."""

from __future__ import annotations

import pytest
import sentry_sdk
from django.core.handlers.wsgi import WSGIHandler
from django.http import JsonResponse
from django.test import RequestFactory
from django.urls import path
from opentelemetry import baggage, context

from pgonly_django import enqueue_many
from pgonly_django.models import Job
from pgonly_django.monitoring.opentelemetry import instrument, uninstrument
from pgonly_django.monitoring.sentry import PgonlyIntegration
from tests.jobs import add, count_to, reported


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


def test_steps_are_spans_and_traces_can_be_left_alone(start, work):
    sent = start(PgonlyIntegration(traces=False), traces_sample_rate=1.0)
    assert count_to.enqueue(2).job.metadata is None
    work()
    (job,) = sent.of("transaction")
    steps = [span["description"] for span in job["spans"] if span["op"] == "queue.step"]
    assert steps == ["square 0", "square 1"]


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
