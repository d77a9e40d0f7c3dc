"""How a run ended, and what is written about it: pure functions, no connection, no thread."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pgonly_django.conf import LONGEST
from pgonly_django.context.run import Run
from pgonly_django.database.statement import printable
from pgonly_django.exceptions import (
    Discard,
    Hold,
    JobCancelled,
    JobHeld,
    JobInterrupt,
    JobTimedOut,
    LeaseLost,
    NotStorableError,
    Retry,
    Snooze,
    UnreadableJobError,
)
from pgonly_django.models.job import HELD_BY_LENGTH, State
from pgonly_django.queue.finish import Finish, Outcome
from pgonly_django.queue.retry import Backoff, delay_seconds
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.error_policies import policy_of
from pgonly_django.tasks.options import TaskOptions
from pgonly_django.tasks.registry import UnfitArgumentsError, UnknownTaskError
from pgonly_django.worker.free_retry import FREE_FOR, SHORTEST_SECONDS, next_free_retry
from pgonly_django.worker.results import result_after
from pgonly_django.worker.tracebacks import formatted, name_of, path_of, text_of, traceback_of

TRACEBACK_LIMIT = 20_000
MESSAGE_LIMIT = 2_000
# A task that is not known is looked for again, after growing pauses, for an hour: a rolling deploy.
UNKNOWN_FOR = timedelta(hours=1)
UNKNOWN_PAUSE_SECONDS = (2.0, 60.0)
BROKEN_BACKOFF_SECONDS = 60.0
CHAIN_LIMIT = 100


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    id: str
    name: str


@dataclass(slots=True)
class Ended:
    """A run that is over in this process. `finish` None: the job is not ours any more, nothing is to be written."""

    run: Run
    finish: Finish | None
    took_seconds: float = 0.0
    committed: bool = False  # the finish went out with the job's own transaction (atomic=True)
    error: BaseException | None = None  # what the run ended with


def succeeded(run: Run, value: Any) -> Finish:
    """Raises NotStorableError when the return value is not JSON."""
    result = None if value is None else to_json(value, f"The return value of {run.job.task}")
    return Finish(run.job.id, run.job.lease_epoch, Outcome.SUCCEEDED, State.SUCCEEDED, result=result)


def ended_with(run: Run, error: BaseException, options: TaskOptions, worker: WorkerFacts) -> Finish:
    """What an exception out of a run means for its job."""
    match error:
        case JobInterrupt() if run.interruption is None:
            reason = f"The job raised {name_of(error)} itself, unasked. Use Snooze, Retry, Hold or Discard."
            return _failed(run, Outcome.FAILED, error, options, worker, reason=reason)
        case JobInterrupt():
            return _interrupted(run, error, options, worker)
        case Hold():
            return held(run, worker, error.by, text_of(error))
        case Snooze():
            delay, why = max(error.delay.total_seconds(), 0.0), text_of(error)
            return _finish(run, Outcome.SNOOZED, State.SCHEDULED, worker, delay=delay, free=True, reason=why)
        case Discard():
            return _finish(run, Outcome.DISCARDED, State.FAILED, worker, reason=text_of(error))
        case NotStorableError() | UnreadableJobError() if _is_for_good(error):
            return _finish(run, Outcome.FAILED, State.FAILED, worker, error=error)
        case UnknownTaskError():
            return _postponed(run, error, worker)
        case Retry():
            delay = max(error.delay.total_seconds(), 0.0)
            return _failed(run, Outcome.RETRIED, error, options, worker, delay=delay)
        case _:
            return _failed(run, Outcome.FAILED, error, options, worker)


def _interrupted(run: Run, error: JobInterrupt, options: TaskOptions, worker: WorkerFacts) -> Finish:
    match error:
        case JobCancelled():
            return _cancelled(run, worker)
        case JobTimedOut():
            return _timed_out(run, error, options, worker)
        case JobHeld() if run.held is not None:
            return held(run, worker, *run.held)
        case _:
            return released(run, worker)


def meaning(run: Run, error: BaseException) -> BaseException:
    """What counts of what a run has raised: the interruption, where the run was asked to end and the error is that
    interruption or came of it (a `finally` that fails); what the job asks for itself stays."""
    if isinstance(error, BaseExceptionGroup):
        error = instruction_in(error) or error
    interruption = run.interruption
    if interruption is None or isinstance(error, (interruption, Snooze, Retry, Discard, Hold)):
        return error
    if not _comes_of_interruption(error):
        return error
    raised = interruption().with_traceback(traceback_of(error))
    raised.__cause__ = error
    return raised


def _comes_of_interruption(error: BaseException | None) -> bool:
    for _ in range(CHAIN_LIMIT):
        if error is None or isinstance(error, JobInterrupt | asyncio.CancelledError):
            return error is not None
        error = error.__cause__ or error.__context__
    return False


def unrecordable(run: Run, error: BaseException, worker: WorkerFacts) -> Finish:
    """The end of a run whose own end cannot be recorded, since that raised `error`."""
    what = name_of(error)
    reason = f"{what} was raised while its end was recorded, by its backoff, its exception or a signal."
    state = State.FAILED if run.job.attempt >= run.job.max_attempts else State.SCHEDULED
    delay = BROKEN_BACKOFF_SECONDS
    return _finish(run, Outcome.FAILED, state, worker, delay=delay, error=error, reason=reason)


def instruction_in(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """What an asyncio.TaskGroup has wrapped: an interruption, or else an instruction with no error beside it."""
    leaves = list(_leaves(group))
    for kind in (LeaseLost, JobInterrupt):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0] if all(isinstance(leaf, Snooze | Retry | Discard | Hold) for leaf in leaves) else None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def released(run: Run, worker: WorkerFacts) -> Finish:
    """Back to ready for any worker, at no cost: a planned stop."""
    return _finish(run, Outcome.RELEASED, State.READY, worker, free=True, reason="Its worker was stopped.")


def held(run: Run, worker: WorkerFacts, by: str, reason: str, error: BaseException | None = None) -> Finish:
    """The job waits for a person, at no cost."""
    finish = _finish(run, Outcome.HELD, State.HELD, worker, free=True, reason=reason, error=error)
    finish.held_by = printable(str(by))[:HELD_BY_LENGTH]
    return finish


def never_started(job_id: str, lease_epoch: int) -> Finish:
    """Back to ready: claimed and never started. It leaves no trace in the job's errors."""
    return Finish(job_id, lease_epoch, Outcome.RELEASED, State.READY, costs_attempt=False, started=False)


def closed_by_force(run: Run, options: TaskOptions, worker: WorkerFacts) -> Finish:
    """The end of a job that ignored its interruption; its thread may go on, but can write nothing."""
    note = "It ignored the interruption and was cut off."
    if run.cancel_requested:
        return _cancelled(run, worker, note)
    return _timed_out(run, JobTimedOut(), options, worker, note)


def _cancelled(run: Run, worker: WorkerFacts, note: str = "") -> Finish:
    reason = f"Cancelled while it ran. {note}".rstrip()
    return _finish(run, Outcome.CANCELLED, State.CANCELLED, worker, reason=reason)


def _timed_out(
    run: Run, error: BaseException, options: TaskOptions, worker: WorkerFacts, note: str = ""
) -> Finish:
    reason = f"Ran longer than its max_runtime of {run.job.max_runtime}. {note}".rstrip()
    return _failed(run, Outcome.TIMED_OUT, error, options, worker, reason=reason)


def _failed(
    run: Run, outcome: Outcome, error: BaseException, options: TaskOptions, worker: WorkerFacts,
    *, delay: float | None = None, reason: str = "",
) -> Finish:  # fmt: skip
    policy = None if outcome is Outcome.RETRIED else policy_of(error, options)
    free = next_free_retry(run) if policy == "snooze_on" else None
    if policy == "never_retry":
        reason = f"{reason} {name_of(error)} is never retried.".strip()
    elif policy == "snooze_on" and free is None:
        reason = f"{reason} {name_of(error)} was retried without counting for {FREE_FOR}.".strip()
    is_last = run.job.attempt >= run.job.max_attempts and free is None
    if not is_last and delay is None and policy != "never_retry":
        delay, why = _backoff_delay(run, free.in_a_row if free else run.job.attempt, error, options)
        reason = f"{reason} {why}".strip()
    if is_last or delay is None:
        return _finish(run, outcome, State.FAILED, worker, error=error, reason=reason)
    if free is not None:
        delay = max(delay, SHORTEST_SECONDS)
        return _finish(
            run, Outcome.SNOOZED, State.SCHEDULED, worker, delay=delay, free=True, error=error, reason=reason,
            **free.entry(),
        )  # fmt: skip
    state = State.SCHEDULED if delay > 0 else State.READY
    return _finish(run, outcome, state, worker, delay=delay, error=error, reason=reason)


def _backoff_delay(
    run: Run, attempt: int, error: BaseException, options: TaskOptions
) -> tuple[float | None, str]:
    """Seconds until the next attempt, None where the backoff wants none; and what is to be said of it."""
    try:
        backoff = options.backoff
        result = None if isinstance(backoff, Backoff) else result_after(run, error)
        delay = delay_seconds(backoff, attempt, error, result)
    except BaseException as broken:  # noqa: BLE001 - a backoff of the user's may raise anything, or exit
        what = f"{name_of(broken)}: {text_of(broken)}"
        return BROKEN_BACKOFF_SECONDS, f"Its backoff raised {what[:MESSAGE_LIMIT]}; 60 s were taken."
    return delay, "Its backoff asked for no further attempt." if delay is None else ""


def _postponed(run: Run, error: UnknownTaskError, worker: WorkerFacts) -> Finish:
    last = run.job.errors[-1] if run.job.errors else {}
    was_postponed = last.get("outcome") == Outcome.POSTPONED and "since" in last
    since = datetime.fromisoformat(last["since"]) if was_postponed else run.now().astimezone(UTC)
    waited = run.now() - since
    if waited >= UNKNOWN_FOR:
        is_unfit = isinstance(error, UnfitArgumentsError)
        what = "could call it with its arguments" if is_unfit else "knew the task"
        reason = f"No worker {what} for {UNKNOWN_FOR}: {error}"
        return _finish(run, Outcome.FAILED, State.FAILED, worker, error=error, reason=reason)
    shortest, longest = UNKNOWN_PAUSE_SECONDS
    pause = min(max(waited.total_seconds() / 2, shortest), longest)
    return _finish(
        run, Outcome.POSTPONED, State.SCHEDULED, worker, delay=pause, free=True, reason=str(error),
        since=since.isoformat(),
    )  # fmt: skip


def _finish(
    run: Run, outcome: Outcome, state: State, worker: WorkerFacts,
    *, delay: float | None = None, free: bool = False, error: BaseException | None = None, reason: str = "",
    **facts: str | int,
) -> Finish:  # fmt: skip
    entry: dict[str, Any] = {"outcome": outcome.value, "worker_id": worker.id, "worker": worker.name, **facts}
    if reason:
        entry["reason"] = printable(reason[:MESSAGE_LIMIT])[:MESSAGE_LIMIT]
    if error is not None:
        entry |= {
            "exception": printable(path_of(error)),
            "message": printable(text_of(error)[:MESSAGE_LIMIT])[:MESSAGE_LIMIT],
            "traceback": printable(_shortened(formatted(error))),
        }
    seconds = min(delay or 0.0, LONGEST.total_seconds()) if state is State.SCHEDULED else None
    return Finish(
        run.job.id, run.job.lease_epoch, outcome, state,
        delay_seconds=seconds, entry=json.dumps(entry), costs_attempt=not free,
    )  # fmt: skip


def _shortened(text: str) -> str:
    """The beginning and the end, where the cause is."""
    if len(text) <= TRACEBACK_LIMIT:
        return text
    half = TRACEBACK_LIMIT // 2
    return f"{text[:half]}\n[... {len(text) - TRACEBACK_LIMIT} characters left out ...]\n{text[-half:]}"


def _is_for_good(error: NotStorableError | UnreadableJobError) -> bool:
    """Whether another run would end the same: what a call returned, the task's own or a step's, cannot be stored.
    Its effects are done, and paid for; running it again would only do them twice."""
    made = ("The return value of", "The result of step")
    return isinstance(error, UnreadableJobError) or error.what.startswith(made)
