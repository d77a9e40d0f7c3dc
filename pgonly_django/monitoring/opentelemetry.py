"""Spans of jobs for OpenTelemetry: call instrument() in the ready() of an AppConfig. It needs only opentelemetry-api
(the extra `opentelemetry`); without an SDK no span is recorded. See docs/how-to/observability.md#traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pgonly_django import instruments
from pgonly_django.exceptions import Discard, Hold, Retry, Snooze
from pgonly_django.instruments import Enqueue, JobRun, Remove
from pgonly_django.outcomes import ERRORS

try:
    from opentelemetry import context as otel_context
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
except ImportError as error:
    remedy = "pip install opentelemetry-api"
    raise ImportError(f"opentelemetry-api is not installed: {remedy}") from error

# Of the semantic conventions for messaging, 1.45, whose names Python's package has as incubating ones.
SYSTEM, DESTINATION, MESSAGE_ID = "messaging.system", "messaging.destination.name", "messaging.message.id"
OPERATION, OPERATION_TYPE = "messaging.operation.name", "messaging.operation.type"
BATCH, CLIENT, ERROR_TYPE = "messaging.batch.message_count", "messaging.client.id", "error.type"
TASK, ATTEMPT, OUTCOME, STEP = "pgonly.task", "pgonly.attempt", "pgonly.outcome", "pgonly.step"
MAX_ATTEMPTS, CRASHES = "pgonly.max_attempts", "pgonly.crashes"
WAITED, DUPLICATE = "pgonly.waited_seconds", "pgonly.is_duplicate"

ON_PURPOSE = (Snooze, Retry, Hold, Discard)
SPAN = "opentelemetry"  # in JobRun.notes

_installed: list[Remove] = []


def instrument(
    *, tracer_provider: Any = None, new_traces: bool = False, steps: bool = True, starts: bool = False
) -> None:
    """Makes a span for each enqueue and each run of this process, and carries the trace from one to the other. Call it
    in the ready() of an AppConfig.

    `new_traces`: each run begins a new trace, linked to the enqueue; by default it is in the trace of the enqueue.
    `steps`: a span for each step that is called. `starts`: a span without length when a run begins, sent with the next
    batch: if the process of the run is killed, only this span is seen. `tracer_provider`: the global one by default. A
    second call replaces the settings of the first.
    """
    uninstrument()
    spans = _Spans(trace.get_tracer("pgonly_django", tracer_provider=tracer_provider), new_traces, starts)
    _installed.extend(
        [
            instruments.around_enqueue(spans.enqueue),
            instruments.carry(_headers),
            instruments.around_run(spans.run),
            instruments.on_stop(lambda seconds: _flush(tracer_provider, seconds)),
        ]
    )
    if steps:
        _installed.append(instruments.around_step(spans.step))


def uninstrument() -> None:
    """Stops making spans. Runs under way end theirs."""
    while _installed:
        _installed.pop()()


def _headers(_: Enqueue) -> Mapping[str, str]:
    """Returns the headers that the propagators of the process write: traceparent, tracestate and baggage, unless it has
    others."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


def _context_of(metadata: Any) -> Context:
    """Returns the context that the enqueue has sent, and nothing of the present one."""
    return propagate.extract({k: v for k, v in (metadata or {}).items() if isinstance(v, str)}, Context())


def _flush(tracer_provider: Any, seconds: float) -> None:
    provider = tracer_provider or trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush(int(seconds * 1000))


class _Spans:
    def __init__(self, tracer: Any, new_traces: bool, starts: bool) -> None:
        self._tracer, self._new_traces, self._starts = tracer, new_traces, starts

    @contextmanager
    def enqueue(self, enqueue: Enqueue) -> Iterator[None]:
        """Makes a span with links to the traces that calls bring along themselves."""
        tasks, queues = ({getattr(job, name) for job in enqueue.jobs} for name in ("task", "queue"))
        attributes: dict[str, Any] = {SYSTEM: "pgonly_django", OPERATION: "enqueue", OPERATION_TYPE: "send"}
        attributes |= {TASK: next(iter(tasks))} if len(tasks) == 1 else {}
        attributes |= {DESTINATION: next(iter(queues))} if len(queues) == 1 else {}
        attributes |= {BATCH: len(enqueue.jobs)} if enqueue.is_bulk else {}
        name = f"enqueue {attributes.get(TASK, attributes.get(DESTINATION, ''))}".rstrip()
        links = _links(enqueue)
        with self._tracer.start_as_current_span(
            name, kind=SpanKind.PRODUCER, attributes=attributes, links=links
        ) as span:
            yield
            if not enqueue.is_bulk:
                span.set_attribute(MESSAGE_ID, enqueue.jobs[0].id)
                span.set_attribute(DUPLICATE, enqueue.jobs[0].is_duplicate)

    @contextmanager
    def run(self, run: JobRun) -> Iterator[None]:
        """Makes a span in the context that the enqueue has sent, with its baggage."""
        context, links = _context_of(run.job.metadata), []
        remote = trace.get_current_span(context).get_span_context()
        if self._new_traces:
            links = [Link(remote)] if remote.is_valid else []
            context = trace.set_span_in_context(trace.INVALID_SPAN, context)
        span = self._tracer.start_span(
            f"run {run.job.task}", context, SpanKind.CONSUMER, attributes=_attributes(run), links=links
        )
        context = trace.set_span_in_context(span, context)
        if self._starts:
            self._tracer.start_span(f"start {run.job.task}", context, attributes=_attributes(run)).end()
        token = otel_context.attach(context)
        run.notes[SPAN] = span
        try:
            yield
        finally:
            otel_context.detach(token)
            _end(span, run)

    @contextmanager
    def step(self, run: JobRun, name: str) -> Iterator[None]:
        """Makes a span below the open one; in a thread that has none, below that of the run."""
        context = otel_context.get_current()
        if (
            run.notes.get(SPAN) is not None
            and not trace.get_current_span(context).get_span_context().is_valid
        ):
            context = trace.set_span_in_context(run.notes[SPAN], context)
        attributes = {STEP: name, MESSAGE_ID: run.job.id, TASK: run.job.task}
        with self._tracer.start_as_current_span(
            "step", context, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except Exception as error:
                if not isinstance(error, ON_PURPOSE):
                    _note_error(span, error)
                raise


def _links(enqueue: Enqueue) -> list[Link]:
    contexts = {
        span.trace_id: span
        for job in enqueue.jobs
        if job.metadata
        and (span := trace.get_current_span(_context_of(job.metadata)).get_span_context()).is_valid
    }
    return [Link(span) for span in contexts.values()]


def _attributes(run: JobRun) -> dict[str, Any]:
    job = run.job
    crashes = {CRASHES: job.crashes} if job.crashes else {}
    return {
        SYSTEM: "pgonly_django", OPERATION: "run", OPERATION_TYPE: "process",
        DESTINATION: job.queue, MESSAGE_ID: job.id, CLIENT: run.worker,
        TASK: job.task, ATTEMPT: job.attempt, MAX_ATTEMPTS: job.max_attempts,
        WAITED: max(job.waited_seconds, 0.0), **crashes,
    }  # fmt: skip


def _end(span: Span, run: JobRun) -> None:
    span.set_attribute(OUTCOME, run.outcome)
    if run.outcome in ERRORS and run.error is not None:
        _note_error(span, run.error)
    elif run.outcome in ERRORS:
        span.set_status(Status(StatusCode.ERROR, run.outcome))
    span.end()


def _note_error(span: Span, error: BaseException) -> None:
    kind = type(error)
    span.set_attribute(ERROR_TYPE, f"{kind.__module__}.{kind.__qualname__}")
    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, kind.__name__))
