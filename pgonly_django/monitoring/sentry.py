"""Jobs in Sentry: `sentry_sdk.init(integrations=[PgonlyIntegration()])` in the settings.

It needs sentry-sdk (the extra `sentry`). It sends one event for each job that has failed, with the job; and the trace
continues from the enqueue into the job. docs/how-to/observability.md#errors-in-sentry says what becomes an event."""

from __future__ import annotations

import contextvars
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pgonly_django import instruments
from pgonly_django.instruments import Enqueue, JobRun
from pgonly_django.outcomes import ERRORS, Outcome

try:
    import sentry_sdk
    import sentry_sdk.scope
    from sentry_sdk import start_transaction  # not in version 3
    from sentry_sdk.integrations import Integration
    from sentry_sdk.scope import Scope, use_isolation_scope
    from sentry_sdk.utils import event_from_exception
except ImportError as error:
    raise ImportError("sentry-sdk 2 is not installed: pip install 'sentry-sdk>=2.20,<3'") from error

ORIGIN = "auto.queue.pgonly_django"
HEADERS = ("sentry-trace", "baggage")
# The events of log records that say the same of a failure as the event that is sent.
TOLD = ("worker.attempt_failed", "worker.job_ended", "worker.job_cut_off", "queue.rescued")
SHOWN_CHARACTERS = 4000
CONTEXT = "sentry"  # in JobRun.notes
CAPTURED = "_pgonly_captured"  # an attribute of exceptions: the scope of the run that has sent it
_scope: contextvars.ContextVar[object] = contextvars.ContextVar("pgonly_django_sentry_scope", default=None)

# The isolation scope of the start: its values hold for the jobs of all threads.
_of_process: list[Scope] = []


class PgonlyIntegration(Integration):
    """Sends an event to Sentry for each job that has failed: `sentry_sdk.init(integrations=[PgonlyIntegration()])`.
    `each_attempt`: for each attempt that fails, not only for the last one. `arguments`: the event has the arguments and
    the metadata of the job, masked as PGONLY["MASKED_ARGUMENTS"] says. `traces`: the job continues the trace of its
    enqueue."""

    identifier = "pgonly_django"
    origin = ORIGIN

    def __init__(self, *, each_attempt: bool = False, arguments: bool = True, traces: bool = True) -> None:
        self.each_attempt, self.arguments, self.traces = each_attempt, arguments, traces

    @staticmethod
    def setup_once() -> None:
        _of_process.append(sentry_sdk.get_isolation_scope())
        instruments.around_enqueue(_enqueue)
        instruments.carry(_headers)
        instruments.around_run(_run)
        instruments.around_step(_step)
        instruments.on_failed(_failed)
        instruments.on_stop(lambda seconds: sentry_sdk.flush(timeout=seconds))
        # Before the processor of Sentry's Dedupe, which is there if an earlier init() was without this integration.
        # Dedupe would remember the error of a log record that is dropped here, and then drop the event of the job.
        sentry_sdk.scope.global_event_processors.insert(0, _unless_told)


def _integration() -> PgonlyIntegration | None:
    """Returns the integration of the present client, or None."""
    found = sentry_sdk.get_client().get_integration(PgonlyIntegration)
    return found if isinstance(found, PgonlyIntegration) else None


@contextmanager
def _enqueue(enqueue: Enqueue) -> Iterator[None]:
    """Makes a span where a transaction is recorded."""
    if not (_integration() and sentry_sdk.get_current_span()):
        yield
        return
    first = enqueue.jobs[0]
    with sentry_sdk.start_span(op="queue.publish", name=first.task, origin=ORIGIN) as span:
        yield
        span.set_data("messaging.system", "pgonly_django")
        span.set_data("messaging.destination.name", first.queue)
        if enqueue.is_bulk:
            span.set_data("messaging.batch.message_count", len(enqueue.jobs))
        else:
            span.set_data("messaging.message.id", first.id)


def _headers(_: Enqueue) -> Mapping[str, str]:
    integration = _integration()
    if integration is None or not integration.traces:
        return {}
    headers = {"sentry-trace": sentry_sdk.get_traceparent(), "baggage": sentry_sdk.get_baggage()}
    return {name: value for name, value in headers.items() if value}


@contextmanager
def _run(run: JobRun) -> Iterator[None]:
    if (integration := _integration()) is None:
        yield
        return
    with (
        _scope_of(run, integration) as transaction,
        start_transaction(transaction, custom_sampling_context={"pgonly_job": _facts(run)}),
    ):
        job = run.job
        latency = max(job.waited_seconds * 1000, 0.0)
        transaction.set_data("messaging.system", "pgonly_django")
        transaction.set_data("messaging.destination.name", job.queue)
        transaction.set_data("messaging.message.id", str(job.id))
        transaction.set_data("messaging.message.receive.latency", latency)
        transaction.set_data("messaging.message.retry.count", max(job.attempt - 1, 0))
        yield
        transaction.set_status("internal_error" if run.outcome in ERRORS else "ok")
        if run.has_failed:
            run.notes[CONTEXT] = contextvars.copy_context(), transaction
        elif run.outcome in ERRORS and integration.each_attempt:
            _capture(run)


@contextmanager
def _scope_of(run: JobRun, integration: PgonlyIntegration) -> Iterator[Any]:
    """Returns a scope with nothing of another job in it, and the trace of the enqueue."""
    metadata = (run.job.metadata or {}) if integration.traces else {}
    headers = {name: metadata[name] for name in HEADERS if isinstance(metadata.get(name), str)}
    task, token = run.job.task, _scope.set(object())
    try:
        with use_isolation_scope(_of_process[0].fork()) as scope:
            sentry_sdk.get_current_scope().clear()  # a fork: that of a request or a test stays as it is
            scope.clear_breadcrumbs()
            scope.add_event_processor(_describes(run, integration))
            scope.set_transaction_name(task, source="task")
            of_job = {"op": "queue.process", "name": task, "source": "task", "origin": ORIGIN}
            yield sentry_sdk.continue_trace(headers, **of_job)
    finally:
        _scope.reset(token)


def _step(_: JobRun, name: str) -> Any:
    """Makes a span where a transaction is recorded."""
    if _integration() is None or sentry_sdk.get_current_span() is None:
        return None
    return sentry_sdk.start_span(op="queue.step", name=name, origin=ORIGIN)


def _failed(run: JobRun) -> None:
    """Sends the one event of a job that has failed, in the scope of its last run: with its breadcrumbs, tags and
    user."""
    integration = _integration()
    if integration is None or run.outcome not in ERRORS:
        return
    if CONTEXT in run.notes:
        context, transaction = run.notes.pop(CONTEXT)
        context.run(_capture_in, transaction, run)
        return
    with _scope_of(run, integration):  # it died with its worker, or was cut off
        _capture(run)


def _capture_in(transaction: Any, run: JobRun) -> None:
    """Captures the error in its trace, although the trace has ended."""
    with sentry_sdk.new_scope() as scope:
        scope.span = transaction
        _capture(run)


def _capture(run: JobRun) -> None:
    client, error = sentry_sdk.get_client(), run.error
    if error is None:
        message = f"{run.job.task} {run.outcome}"
        if run.outcome == Outcome.CRASHED:
            message = f"{run.job.task} failed: its worker died {run.job.crashes} times while it ran"
        event: Any = {"level": "error", "message": message, "fingerprint": [run.job.task, run.outcome]}
        sentry_sdk.capture_event(event)
        return
    mechanism = {"type": PgonlyIntegration.identifier, "handled": False}
    event, hint = event_from_exception(error, client_options=client.options, mechanism=mechanism)
    sentry_sdk.capture_event(event, hint=hint)


def _unless_told(event: Any, hint: Any) -> Any:
    """Drops an event that another one reports: our log records of a failure, Django's record for its signal, and an
    error that was captured already, by the job or here. If several jobs raise one object, each has an event."""
    if _integration() is None:
        return event
    record, (_, error, _) = hint.get("log_record"), hint.get("exc_info") or (None, None, None)
    if record is not None:
        is_ours = getattr(record, "event", None) in TOLD and record.name.startswith("pgonly_django.")
        is_of_signal = instruments.sends_finished.get() and record.name in ("django.tasks", "django_tasks")
        if is_ours or is_of_signal:
            return None
    captured = getattr(error, CAPTURED, None)
    return None if captured is not None and _scope.get() in (None, captured) else event


def _describes(run: JobRun, integration: PgonlyIntegration) -> Callable[[Any, Any], Any]:
    """Returns an event processor that adds the job, after _unless_told()."""

    def describe(event: Any, hint: Any) -> Any:
        if hint.get("exc_info"):
            with suppress(Exception):  # a class of the project may take no attributes
                setattr(hint["exc_info"][1], CAPTURED, _scope.get())
        facts = _facts(run)
        tags = {name: str(facts[name]) for name in ("job_id", "task", "queue", "attempt")}
        event["tags"] = tags | dict(event.get("tags") or {})
        if event.get("type") != "transaction":
            more = _arguments(run.job) if integration.arguments else {}
            event.setdefault("contexts", {})["job"] = facts | more
        return event

    return describe


def _facts(run: JobRun) -> dict[str, Any]:
    job = run.job
    return {
        "job_id": str(job.id), "task": job.task, "queue": job.queue, "attempt": job.attempt,
        "max_attempts": job.max_attempts, "crashes": job.crashes, "worker": run.worker, "outcome": run.outcome,
        "enqueued_at": job.enqueued_at.isoformat() if job.enqueued_at else None,  # a time that Python cannot hold
    }  # fmt: skip


def _arguments(job: Any) -> dict[str, str]:
    from pgonly_django.tasks.masking import JobMask
    from pgonly_django.tasks.metadata import TRACE_HEADERS

    mask, metadata = JobMask(), job.metadata or {}
    carried = {name: value for name, value in metadata.items() if name not in TRACE_HEADERS}
    values = {
        "args": mask.args(job.task, job.args),
        "kwargs": mask.value(job.kwargs or {}),
        "metadata": mask.value(carried),
    }
    return {name: _shown(value) for name, value in values.items() if value}


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (ValueError, RecursionError):
        return "it cannot be shown"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text):,} characters)"
