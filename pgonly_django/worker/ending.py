"""What ended a run, and what is written of it: pure functions, no connection, no thread."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pgonly_django.compat import TaskError, TaskResultStatus
from pgonly_django.conf import LONGEST
from pgonly_django.context.calls import SHORT_SECONDS
from pgonly_django.context.run import Run
from pgonly_django.database.statement import printable
from pgonly_django.error_texts import as_reason, path_of, step_of, text_of, traceback_text
from pgonly_django.exceptions import (
    Discard,
    Hold,
    JobCancelled,
    JobHeld,
    JobInterrupt,
    JobTimedOut,
    JobWaiting,
    LeaseLost,
    NotStorableError,
    Retry,
    Snooze,
    UnreadableJobError,
)
from pgonly_django.models.job import HELD_BY_LENGTH, State
from pgonly_django.outcomes import Outcome
from pgonly_django.provider_answers import asked_seconds
from pgonly_django.queue.carried import shown_of
from pgonly_django.queue.claim import UNKNOWN_FOR
from pgonly_django.queue.finish import Finish
from pgonly_django.queue.retry import Backoff, delay_seconds
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.error_policies import errors_in, policy_of
from pgonly_django.tasks.options import TaskOptions
from pgonly_django.tasks.registry import UnfitArgumentsError, UnknownTaskError, with_fields
from pgonly_django.tasks.result import build_result
from pgonly_django.wording import duration

# A task that is not known is looked for again, after growing pauses, for UNKNOWN_FOR: a rolling deploy.
UNKNOWN_PAUSE_SECONDS = (2.0, 60.0)
BROKEN_BACKOFF_SECONDS = 60.0
# For this long in a row `snooze_on` retries an error without counting. Then it counts, as any other.
FREE_FOR = timedelta(days=7)
# A backoff that returns less would claim the job again and again, and no attempt would end that.
SHORTEST_SECONDS = 1.0
CHAIN_LIMIT = 100
LEFT_EARLY = "Its worker had less time left, by its --max-seconds, than the job's longest step or item took."


@dataclass(slots=True)
class EndedRun:
    """A run that has ended in this process. `finish` None: the job is not ours any more, and nothing is written."""

    run: Run
    finish: Finish | None
    took_seconds: float = 0.0
    committed: bool = False  # the finish went out with the job's own transaction (atomic=True)
    error: BaseException | None = None  # what the run ended with
    at: float | None = None  # by time.time(), after its end is written


def finish(
    run: Run, outcome: Outcome, state: State,
    *, delay: float | None = None, free: bool = False, error: BaseException | None = None, reason: str = "",
    **facts: str | float,
) -> Finish:  # fmt: skip
    """Returns what is written of the run: the state after it, and the entry in the job's errors. `free`: it uses up no
    attempt. `facts` stand in the entry, besides what is said of every run."""
    entry: dict[str, Any] = {"outcome": outcome.value, "worker_id": run.worker_id, "worker": run.worker}
    entry |= facts
    if reason := reason.strip():
        entry["reason"] = as_reason(reason)
    if error is not None:
        entry["exception"], entry["message"] = printable(path_of(error)), as_reason(text_of(error))
        entry["traceback"] = traceback_text(error)
        entry |= step_of(error, run.key)
    seconds = min(delay or 0.0, LONGEST.total_seconds()) if state is State.SCHEDULED else None
    return Finish(
        run.job.id, run.job.lease_epoch, outcome, state,
        delay_seconds=seconds, entry=json.dumps(entry), costs_attempt=not free,
    )  # fmt: skip


def succeeded(run: Run, value: Any) -> Finish:
    """Raises NotStorableError when the return value is not JSON."""
    result = None if value is None else to_json(value, f"The return value of {run.job.task}")
    return Finish(run.job.id, run.job.lease_epoch, Outcome.SUCCEEDED, State.SUCCEEDED, result=result)


def released(run: Run) -> Finish:
    """The job to ready for any worker, without using up an attempt: a planned stop, or too little time before it."""
    if not run.leaves_early:
        return finish(run, Outcome.RELEASED, State.READY, free=True, reason="Its worker was stopped.")
    # For Deadline.admit() of other processes.
    until = run.now() + timedelta(seconds=run.calls.process_seconds)
    return finish(
        run, Outcome.RELEASED, State.READY, free=True, reason=LEFT_EARLY,
        longest_seconds=round(run.calls.longest_seconds, 3), until=until.isoformat(),
    )  # fmt: skip


def never_started(job_id: str, lease_epoch: int) -> Finish:
    """Returns the job, which was claimed and never started, to ready. It leaves no trace in the job's errors."""
    return Finish(job_id, lease_epoch, Outcome.RELEASED, State.READY, costs_attempt=False, started=False)


def closed_by_force(run: Run, options: TaskOptions) -> Finish:
    """Ends a job that ignored its interruption; its thread may continue, but can write nothing."""
    note = "It ignored the interruption and was cut off."
    return _cancelled(run, note) if run.cancel_requested else _timed_out(run, JobTimedOut(), options, note)


def unrecordable(run: Run, error: BaseException) -> Finish:
    """Ends a run whose own end cannot be recorded, since that raised `error`."""
    name = type(error).__name__
    reason = f"{name} was raised while its end was recorded, by its backoff, its exception or a signal."
    state = State.FAILED if run.job.attempt >= run.job.max_attempts else State.SCHEDULED
    return finish(run, Outcome.FAILED, state, delay=BROKEN_BACKOFF_SECONDS, error=error, reason=reason)


def how_it_ended(finish: Finish) -> Outcome:
    """Returns the outcome. A requested cancellation counts; a retry that the last attempt asks for is a failure."""
    if finish.state is State.CANCELLED:
        return Outcome.CANCELLED
    is_retry = finish.outcome is Outcome.RETRIED
    return Outcome.FAILED if is_retry and finish.state is State.FAILED else finish.outcome


# What an exception means.


def meaning(run: Run, error: BaseException) -> BaseException:
    """Returns the exception that counts of what a run has raised: the interruption, where the run was asked to end and
    the error is that interruption or came of it (a `finally` that fails); what the job asks for itself stays."""
    if isinstance(error, BaseExceptionGroup):
        error = _instruction_in(error) or error
    interruption = run.interruption
    if interruption is None or isinstance(error, (interruption, Snooze, Retry, Discard, Hold)):
        return error
    cause: BaseException | None = error
    for _ in range(CHAIN_LIMIT):
        if cause is None or isinstance(cause, JobInterrupt | asyncio.CancelledError):
            break
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, JobInterrupt | asyncio.CancelledError):
        return error
    raised = interruption().with_traceback(error.__traceback__)
    raised.__cause__ = error
    return raised


def _instruction_in(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """What an asyncio.TaskGroup has wrapped: an interruption, or else an instruction with no error beside it."""
    leaves = list(errors_in(group))
    for kind in (LeaseLost, JobInterrupt):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0] if all(isinstance(leaf, Snooze | Retry | Discard | Hold) for leaf in leaves) else None


def ended_with(run: Run, error: BaseException, options: TaskOptions) -> Finish:
    """Returns what an exception out of a run means for its job."""
    match error:
        case JobInterrupt() if run.interruption is None:
            name = type(error).__name__
            reason = f"The job raised {name} itself, unasked. Use Snooze, Retry, Hold or Discard."
            return _failed(run, Outcome.FAILED, error, options, reason)
        case JobInterrupt():
            return _interrupted(run, error, options)
        case Hold():
            return _held(run, error.by, text_of(error))
        case Snooze():
            return _snoozed(run, max(error.delay.total_seconds(), 0.0), text_of(error), polls=True)
        case Discard():
            return finish(run, Outcome.DISCARDED, State.FAILED, reason=text_of(error))
        case NotStorableError() | UnreadableJobError() if _would_end_the_same(error):
            return finish(run, Outcome.FAILED, State.FAILED, error=error)
        case UnknownTaskError():
            return _postponed(run, error)
        case Retry():
            return _again(run, Outcome.RETRIED, error, max(error.delay.total_seconds(), 0.0))
        case _:
            return _failed(run, Outcome.FAILED, error, options)


def _interrupted(run: Run, error: JobInterrupt, options: TaskOptions) -> Finish:
    match error:
        case JobCancelled():
            return _cancelled(run)
        case JobTimedOut():
            return _timed_out(run, error, options)
        case JobHeld() if run.held is not None and run.held.again_in_seconds is not None:
            return _snoozed(run, run.held.again_in_seconds, run.held.reason)
        case JobHeld() if run.held is not None:
            return _held(run, run.held.by, run.held.reason)
        case JobWaiting() if run.waits:
            return _waiting(run)
        case _:
            return released(run)


def _would_end_the_same(error: NotStorableError | UnreadableJobError) -> bool:
    """Returns whether the value that a call returned, the task's own or a step's, cannot be stored. Its effects are
    done, and paid for; running it again would only do them twice."""
    made = ("The return value of", "The result of step")
    return isinstance(error, UnreadableJobError) or error.what.startswith(made)


def _held(run: Run, by: str, reason: str, error: BaseException | None = None) -> Finish:
    """Holds the job for a person. Uses up no attempt."""
    held = finish(run, Outcome.HELD, State.HELD, free=True, reason=reason, error=error)
    held.held_by = printable(str(by))[:HELD_BY_LENGTH]
    return held


def _waiting(run: Run) -> Finish:
    """Lets the job wait until its first deadline. It leaves no entry in the job's errors: a row says what it waits for,
    and a step what came of it."""
    seconds = min(each.until for each in run.waits) - time.monotonic()
    delay = min(max(seconds, 0.0), LONGEST.total_seconds())
    return Finish(
        run.job.id, run.job.lease_epoch, Outcome.WAITING, State.SCHEDULED, delay_seconds=delay, costs_attempt=False
    )  # fmt: skip


def _snoozed(run: Run, delay: float, reason: str, *, polls: bool = False) -> Finish:
    snoozed = finish(run, Outcome.SNOOZED, State.SCHEDULED, delay=delay, free=True, reason=reason)
    snoozed.polls = polls
    return snoozed


def _cancelled(run: Run, note: str = "") -> Finish:
    return finish(run, Outcome.CANCELLED, State.CANCELLED, reason=f"Cancelled while it ran. {note}")


def _timed_out(run: Run, error: BaseException, options: TaskOptions, note: str = "") -> Finish:
    reason = f"Ran longer than its max_runtime of {run.job.max_runtime}. {note}".rstrip()
    return _failed(run, Outcome.TIMED_OUT, error, options, reason)


def _postponed(run: Run, error: UnknownTaskError) -> Finish:
    last = run.job.errors[-1] if run.job.errors else {}
    was_postponed = last.get("outcome") == Outcome.POSTPONED and "since" in last
    since = datetime.fromisoformat(last["since"]) if was_postponed else run.now().astimezone(UTC)
    waited = run.now() - since
    if waited >= UNKNOWN_FOR:
        is_unfit = isinstance(error, UnfitArgumentsError)
        what = "could call it with its arguments" if is_unfit else "knew the task"
        reason = f"No worker {what} for {duration(UNKNOWN_FOR)}: {error}"
        return finish(run, Outcome.FAILED, State.FAILED, error=error, reason=reason)
    shortest, longest = UNKNOWN_PAUSE_SECONDS
    pause = min(max(waited.total_seconds() / 2, shortest), longest)
    return finish(
        run, Outcome.POSTPONED, State.SCHEDULED, delay=pause, free=True, reason=str(error), since=since.isoformat()
    )  # fmt: skip


# What follows an attempt that failed: another one, none, or a person's decision.


def _failed(
    run: Run, outcome: Outcome, error: BaseException, options: TaskOptions, reason: str = ""
) -> Finish:
    """Ends a failed run as the policies of the task say of `error`, or else by its attempts and its backoff."""
    policy, name = policy_of(error, options), type(error).__name__
    if policy == "hold_on":
        return _held(run, f"error:{name}", f"{reason} {name}: {text_of(error)}", error)
    why = ""
    if policy == "never_retry":
        why = f"{name} is never retried."
    elif policy is None and options.retry_on:
        why = f"{name} is not in retry_on."
    if why:
        return finish(run, outcome, State.FAILED, error=error, reason=f"{reason} {why}")
    if policy == "snooze_on":
        if (free := _retried_free(run, error, options, reason)) is not None:
            return free
        reason = f"{reason} {name} was retried for {FREE_FOR} without counting."
    if run.job.attempt >= run.job.max_attempts:
        return finish(run, outcome, State.FAILED, error=error, reason=reason)
    delay, why = _backoff_delay(run, run.job.attempt, error, options)
    return _again(run, outcome, error, delay, f"{reason} {why}")


def _again(run: Run, outcome: Outcome, error: BaseException, delay: float | None, reason: str = "") -> Finish:
    """Returns another attempt after `delay` seconds, where one is left; None: the job fails."""
    if delay is None or run.job.attempt >= run.job.max_attempts:
        return finish(run, outcome, State.FAILED, error=error, reason=reason)
    state = State.SCHEDULED if delay > 0 else State.READY
    return finish(run, outcome, state, delay=delay, error=error, reason=reason)


def _retried_free(run: Run, error: BaseException, options: TaskOptions, reason: str) -> Finish | None:
    """Returns a retry that does not count. None where the unbroken row of such retries has lasted too long. A run that
    has saved something new begins another row."""
    last = (run.job.errors or [{}])[-1]
    now, in_a_row, since = run.now().astimezone(UTC), last.get("in_a_row", 0) + 1, last.get("since")
    if run.got_further or in_a_row == 1 or since is None:
        in_a_row, since = 1, now.isoformat()
    elif now - datetime.fromisoformat(since) >= FREE_FOR:
        return None
    delay, why = _backoff_delay(run, in_a_row, error, options)
    reason = f"{reason} {why}"
    if delay is None:
        return finish(run, Outcome.FAILED, State.FAILED, error=error, reason=reason)
    asked = _asked_for(error)
    if asked is not None and asked <= SHORT_SECONDS and in_a_row == 1:
        delay = asked  # the provider knows better; what comes again and again backs off
    delay = max(delay, asked or 0.0, SHORTEST_SECONDS)
    return finish(
        run, Outcome.SNOOZED, State.SCHEDULED, delay=delay, free=True, error=error, reason=reason,
        in_a_row=in_a_row, since=since,
    )  # fmt: skip


def short_pause(options: TaskOptions, error: BaseException) -> float | None:
    """Returns the seconds to wait in place before a step is called again, where its error is one of `snooze_on` and
    asks for such a short wait; otherwise None."""
    asked = _asked_for(error) if options.snooze_on else None
    is_short = asked is not None and asked <= SHORT_SECONDS
    return asked if is_short and policy_of(error, options) == "snooze_on" else None


def _asked_for(error: BaseException) -> float | None:
    """Returns the seconds that a provider asks for, by the Retry-After of its answer; None where it asks for none."""
    errors = errors_in(error) if isinstance(error, BaseExceptionGroup) else (error,)
    try:
        return max((seconds for each in errors if (seconds := asked_seconds(each)) is not None), default=None)
    except BaseException:  # noqa: BLE001 - attributes of the project's own classes may raise anything
        return None


def _backoff_delay(
    run: Run, attempt: int, error: BaseException, options: TaskOptions
) -> tuple[float | None, str]:
    """Returns the seconds until the next attempt, None where the backoff wants none; and what to say of it."""
    try:
        result = None
        if not isinstance(options.backoff, Backoff):  # as if this failure were the job's last
            told = TaskError(exception_class_path=path_of(error), traceback=traceback_text(error))
            result = changed_result(run, told, status=TaskResultStatus.FAILED)
        delay = delay_seconds(options.backoff, attempt, error, result)
    except BaseException as broken:  # noqa: BLE001 - a backoff of the user's may raise anything, or exit
        what = as_reason(f"{type(broken).__name__}: {text_of(broken)}")
        return BROKEN_BACKOFF_SECONDS, f"Its backoff raised {what}; waiting 60 s instead."
    return delay, "Its backoff asked for no further attempt." if delay is None else ""


def result_of(run: Run) -> Any:
    """Returns the TaskResult of the run as it began, made for the first caller that asks; for most jobs without a
    context it is never made. None where the task was not found."""
    if run.result is None and run.found_task is not None:
        job, task = run.job, run.found_task.task
        run.result = build_result(
            task=task if job.run_at is None else with_fields(task, run_after=job.run_at),
            id=job.id, status=TaskResultStatus.RUNNING, backend=job.backend,
            args=job.args, kwargs=job.kwargs or {}, errors=job.errors or (), worker_id=run.worker_id,
            enqueued_at=job.enqueued_at, started_at=job.started_at, last_attempted_at=job.attempted_at,
            _attempts=job.attempt, _carried=shown_of(job),
        )  # fmt: skip
    return run.result


def changed_result(run: Run, told: TaskError | None, **changes: Any) -> Any:
    """Returns the run's TaskResult after its end. None where the task was not found."""
    if (began := result_of(run)) is None:
        return None
    result = copy.copy(began)
    if told is not None:
        changes["errors"] = [*result.errors, told]
    vars(result).update(changes, finished_at=run.now())
    return result
