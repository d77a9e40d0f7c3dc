"""How a run ended, and what is written about it: pure functions, no connection, no thread."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pgonly_django.context.run import HoldRequest, Run
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
from pgonly_django.models.job import State
from pgonly_django.queue.finish import Finish, Outcome
from pgonly_django.queue.unknown_tasks import UNKNOWN_FOR
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.error_policies import errors_in
from pgonly_django.tasks.options import TaskOptions
from pgonly_django.tasks.registry import UnfitArgumentsError, UnknownTaskError
from pgonly_django.worker.failed_attempts import BROKEN_BACKOFF_SECONDS, again, failed
from pgonly_django.worker.finishes import WorkerFacts, finish, held
from pgonly_django.worker.tracebacks import name_of, text_of, traceback_of

# A task that is not known is looked for again, after growing pauses, for UNKNOWN_FOR: a rolling deploy.
UNKNOWN_PAUSE_SECONDS = (2.0, 60.0)
CHAIN_LIMIT = 100
LEFT_EARLY = "Its worker had less time left, by its --max-seconds, than the job's longest step or item took."


@dataclass(slots=True)
class Ended:
    """A run that is over in this process. `finish` None: the job is not ours any more, nothing is to be written."""

    run: Run
    finish: Finish | None
    took_seconds: float = 0.0
    committed: bool = False  # the finish went out with the job's own transaction (atomic=True)
    error: BaseException | None = None  # what the run ended with


def how_it_ended(finish: Finish) -> Outcome:
    """A cancellation that was asked for counts; a retry that the last attempt asks for is a failure."""
    if finish.state is State.CANCELLED:
        return Outcome.CANCELLED
    is_retry = finish.outcome is Outcome.RETRIED
    return Outcome.FAILED if is_retry and finish.state is State.FAILED else finish.outcome


def succeeded(run: Run, value: Any) -> Finish:
    """Raises NotStorableError when the return value is not JSON."""
    result = None if value is None else to_json(value, f"The return value of {run.job.task}")
    return Finish(run.job.id, run.job.lease_epoch, Outcome.SUCCEEDED, State.SUCCEEDED, result=result)


def ended_with(run: Run, error: BaseException, options: TaskOptions, worker: WorkerFacts) -> Finish:
    """What an exception out of a run means for its job."""
    match error:
        case JobInterrupt() if run.interruption is None:
            reason = f"The job raised {name_of(error)} itself, unasked. Use Snooze, Retry, Hold or Discard."
            return failed(run, Outcome.FAILED, error, options, worker, reason=reason)
        case JobInterrupt():
            return _interrupted(run, error, options, worker)
        case Hold():
            return held(run, worker, error.by, text_of(error))
        case Snooze():
            delay, why = max(error.delay.total_seconds(), 0.0), text_of(error)
            ended = finish(run, Outcome.SNOOZED, State.SCHEDULED, worker, delay=delay, free=True, reason=why)
            ended.polls = True
            return ended
        case Discard():
            return finish(run, Outcome.DISCARDED, State.FAILED, worker, reason=text_of(error))
        case NotStorableError() | UnreadableJobError() if _is_for_good(error):
            return finish(run, Outcome.FAILED, State.FAILED, worker, error=error)
        case UnknownTaskError():
            return _postponed(run, error, worker)
        case Retry():
            delay = max(error.delay.total_seconds(), 0.0)
            return again(run, Outcome.RETRIED, error, worker, delay)
        case _:
            return failed(run, Outcome.FAILED, error, options, worker)


def _interrupted(run: Run, error: JobInterrupt, options: TaskOptions, worker: WorkerFacts) -> Finish:
    match error:
        case JobCancelled():
            return _cancelled(run, worker)
        case JobTimedOut():
            return _timed_out(run, error, options, worker)
        case JobHeld() if run.held is not None:
            return _as_requested(run, run.held, worker)
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
    return finish(run, Outcome.FAILED, state, worker, delay=delay, error=error, reason=reason)


def instruction_in(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """What an asyncio.TaskGroup has wrapped: an interruption, or else an instruction with no error beside it."""
    leaves = list(errors_in(group))
    for kind in (LeaseLost, JobInterrupt):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0] if all(isinstance(leaf, Snooze | Retry | Discard | Hold) for leaf in leaves) else None


def released(run: Run, worker: WorkerFacts) -> Finish:
    """Back to ready for any worker, at no cost: a planned stop, or too little time before it."""
    if not run.leaves_early:
        reason = "Its worker was stopped."
        return finish(run, Outcome.RELEASED, State.READY, worker, free=True, reason=reason)
    # For Deadline.admit() of other processes.
    until = run.now() + timedelta(seconds=run.calls.process_seconds)
    return finish(
        run, Outcome.RELEASED, State.READY, worker, free=True, reason=LEFT_EARLY,
        longest_seconds=round(run.calls.longest_seconds, 3), until=until.isoformat(),
    )  # fmt: skip


def _as_requested(run: Run, request: HoldRequest, worker: WorkerFacts) -> Finish:
    if request.again_in_seconds is None:
        return held(run, worker, request.by, request.reason)
    delay, why = request.again_in_seconds, request.reason
    return finish(run, Outcome.SNOOZED, State.SCHEDULED, worker, delay=delay, free=True, reason=why)


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
    return finish(run, Outcome.CANCELLED, State.CANCELLED, worker, reason=reason)


def _timed_out(
    run: Run, error: BaseException, options: TaskOptions, worker: WorkerFacts, note: str = ""
) -> Finish:
    reason = f"Ran longer than its max_runtime of {run.job.max_runtime}. {note}".rstrip()
    return failed(run, Outcome.TIMED_OUT, error, options, worker, reason=reason)


def _postponed(run: Run, error: UnknownTaskError, worker: WorkerFacts) -> Finish:
    last = run.job.errors[-1] if run.job.errors else {}
    was_postponed = last.get("outcome") == Outcome.POSTPONED and "since" in last
    since = datetime.fromisoformat(last["since"]) if was_postponed else run.now().astimezone(UTC)
    waited = run.now() - since
    if waited >= UNKNOWN_FOR:
        is_unfit = isinstance(error, UnfitArgumentsError)
        what = "could call it with its arguments" if is_unfit else "knew the task"
        reason = f"No worker {what} for {UNKNOWN_FOR}: {error}"
        return finish(run, Outcome.FAILED, State.FAILED, worker, error=error, reason=reason)
    shortest, longest = UNKNOWN_PAUSE_SECONDS
    pause = min(max(waited.total_seconds() / 2, shortest), longest)
    return finish(
        run, Outcome.POSTPONED, State.SCHEDULED, worker, delay=pause, free=True, reason=str(error),
        since=since.isoformat(),
    )  # fmt: skip


def _is_for_good(error: NotStorableError | UnreadableJobError) -> bool:
    """Whether another run would end the same: what a call returned, the task's own or a step's, cannot be stored.
    Its effects are done, and paid for; running it again would only do them twice."""
    made = ("The return value of", "The result of step")
    return isinstance(error, UnreadableJobError) or error.what.startswith(made)
