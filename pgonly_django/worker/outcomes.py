"""From how a run ended to what is written about it: pure functions, no connection, no thread."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pgonly_django.conf import LONGEST
from pgonly_django.exceptions import (
    Discard,
    JobCancelled,
    JobInterrupt,
    JobStopped,
    JobTimedOut,
    LeaseLost,
    NotStorableError,
    Retry,
    Snooze,
    UnreadableJobError,
)
from pgonly_django.models.job import State
from pgonly_django.queue.finish import Finish, Outcome
from pgonly_django.queue.retry import delay_seconds
from pgonly_django.queue.values import to_json
from pgonly_django.statement import printable
from pgonly_django.tasks.options import TaskOptions
from pgonly_django.tasks.registry import UnknownTaskError
from pgonly_django.tasks.run import Run

TRACEBACK_LIMIT = 20_000
MESSAGE_LIMIT = 2_000
# A task that nobody knows yet is looked for again, ever less often, for an hour: a rolling deploy.
UNKNOWN_FOR = timedelta(hours=1)
UNKNOWN_PAUSE_SECONDS = (2.0, 60.0)


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    id: str
    name: str


def succeeded(run: Run, value: Any) -> Finish:
    """Raises NotStorableError when the return value is not JSON."""
    result = None if value is None else to_json(value, f"The return value of {run.job.task}")
    return Finish(run.job.id, run.job.lease, Outcome.SUCCEEDED, State.SUCCEEDED, result=result)


def ended_with(run: Run, error: BaseException, options: TaskOptions, worker: WorkerFacts) -> Finish:
    """What an exception out of a run means for its job."""
    match error:
        case JobStopped():
            return released(run, worker)
        case JobCancelled():
            return _finish(run, Outcome.CANCELLED, State.CANCELLED, worker, reason="Cancelled while it ran.")
        case Snooze():
            seconds = max(error.delay.total_seconds(), 0.0)
            return _finish(
                run, Outcome.SNOOZED, State.SCHEDULED, worker, delay=seconds, free=True, reason=str(error)
            )
        case Discard():
            return _finish(run, Outcome.DISCARDED, State.FAILED, worker, reason=str(error.reason))
        case NotStorableError() if _is_of_a_call(error):
            # Its effects are done, and paid for; running it again would only do them twice.
            return _finish(run, Outcome.FAILED, State.FAILED, worker, error=error)
        case UnreadableJobError():
            return _finish(run, Outcome.FAILED, State.FAILED, worker, error=error)
        case UnknownTaskError():
            return _postponed(run, error, worker)
        case JobTimedOut():
            reason = f"Ran longer than its max_runtime of {run.job.max_runtime}."
            return _failed(run, Outcome.TIMED_OUT, error, options, worker, reason=reason)
        case Retry():
            delay = max(error.delay.total_seconds(), 0.0)
            return _failed(run, Outcome.RETRIED, error, options, worker, delay=delay)
        case _:
            return _failed(run, Outcome.FAILED, error, options, worker)


def instruction_in(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """What an asyncio.TaskGroup has wrapped: an interruption, or else an instruction with no error beside it."""
    leaves = list(_leaves(group))
    for kind in (LeaseLost, JobInterrupt):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0] if all(isinstance(leaf, Snooze | Retry | Discard) for leaf in leaves) else None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def released(run: Run, worker: WorkerFacts, reason: str = "Its worker was stopped.") -> Finish:
    """Back to ready for any worker, at no cost: a planned stop."""
    return _finish(run, Outcome.RELEASED, State.READY, worker, free=True, reason=reason)


def given_back(run: Run) -> Finish:
    """Back to ready: claimed ahead and never started. It leaves no trace in the job's errors."""
    return Finish(
        run.job.id, run.job.lease, Outcome.RELEASED, State.READY, costs_attempt=False, started=False
    )


def closed_by_force(run: Run, options: TaskOptions, worker: WorkerFacts) -> Finish:
    """The end of a job that ignored its interruption; its thread may go on, but can write nothing."""
    note = "It ignored the interruption and was cut off."
    if run.cancel_requested:
        return _finish(
            run, Outcome.CANCELLED, State.CANCELLED, worker, reason=f"Cancelled while it ran. {note}"
        )
    reason = f"Ran longer than its max_runtime of {run.job.max_runtime}. {note}"
    return _failed(run, Outcome.TIMED_OUT, JobTimedOut(), options, worker, reason=reason)


def _failed(
    run: Run,
    outcome: Outcome,
    error: BaseException,
    options: TaskOptions,
    worker: WorkerFacts,
    *,
    delay: float | None = None,
    reason: str = "",
) -> Finish:
    if run.job.attempt >= run.job.max_attempts:
        return _finish(run, outcome, State.FAILED, worker, error=error, reason=reason)
    if delay is None:
        try:
            delay = delay_seconds(options.backoff, run.job.attempt, error)
        except Exception as broken:  # noqa: BLE001 - a backoff of the user's may raise anything
            reason = (
                f"{reason} Its backoff raised {type(broken).__name__}: {broken}; 60 s were taken.".strip()
            )
            delay = 60.0
    state = State.SCHEDULED if delay > 0 else State.READY
    return _finish(run, outcome, state, worker, delay=delay, error=error, reason=reason)


def _postponed(run: Run, error: UnknownTaskError, worker: WorkerFacts) -> Finish:
    since = _unknown_since(run)
    waited = run.now() - since
    if waited >= UNKNOWN_FOR:
        reason = f"No worker knew the task for {UNKNOWN_FOR}: {error}"
        return _finish(run, Outcome.FAILED, State.FAILED, worker, error=error, reason=reason)
    shortest, longest = UNKNOWN_PAUSE_SECONDS
    pause = min(max(waited.total_seconds() / 2, shortest), longest)
    return _finish(
        run, Outcome.POSTPONED, State.SCHEDULED, worker, delay=pause, free=True, reason=str(error),
        since=since.isoformat(),
    )  # fmt: skip


def _unknown_since(run: Run) -> datetime:
    """When the present spell of not knowing the task began."""
    last = run.job.errors[-1] if run.job.errors else {}
    if last.get("outcome") == Outcome.POSTPONED and "since" in last:
        return datetime.fromisoformat(last["since"])
    return run.now().astimezone(UTC)


def _finish(
    run: Run,
    outcome: Outcome,
    state: State,
    worker: WorkerFacts,
    *,
    delay: float | None = None,
    free: bool = False,
    error: BaseException | None = None,
    reason: str = "",
    **facts: str,
) -> Finish:
    entry: dict[str, Any] = {
        "outcome": outcome.value, "worker_id": worker.id, "worker": worker.name, **facts,
    }  # fmt: skip
    if reason:
        entry["reason"] = printable(reason)[:MESSAGE_LIMIT]
    if error is not None:
        entry |= _described(error)
    return Finish(
        run.job.id,
        run.job.lease,
        outcome,
        state,
        delay_seconds=min(delay or 0.0, LONGEST.total_seconds()) if state is State.SCHEDULED else None,
        entry=json.dumps(entry),
        costs_attempt=not free,
    )


def _described(error: BaseException) -> dict[str, str]:
    kind = type(error)
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - an exception of the user's whose __str__ raises
        message = f"<its text cannot be had: {type(broken).__name__}>"
    return {
        "exception": f"{kind.__module__}.{kind.__qualname__}",
        "message": printable(message)[:MESSAGE_LIMIT],
        "traceback": _shortened(printable(_traceback(error))),
    }


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception as broken:  # noqa: BLE001 - formatting calls the user's __str__ and __repr__
        return f"<its traceback cannot be had: {type(broken).__name__}>"


def _shortened(text: str) -> str:
    """The beginning and the end, where the cause is."""
    if len(text) <= TRACEBACK_LIMIT:
        return text
    half = TRACEBACK_LIMIT // 2
    return f"{text[:half]}\n[... {len(text) - TRACEBACK_LIMIT} characters left out ...]\n{text[-half:]}"


def _is_of_a_call(error: NotStorableError) -> bool:
    """Whether it is about what a call returned, the task's own or a step's."""
    return error.what.startswith(("The return value of", "The result of step"))
