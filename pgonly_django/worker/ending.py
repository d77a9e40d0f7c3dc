"""How a run ended, and what is written about it: pure functions, no connection, no thread.

Makes what is written of a run that is over: the state after it, and the entry in the job's errors.

What follows an attempt that failed: another one, none, or a person's decision.

Attempts that a task's `snooze_on` retries without counting them.

The TaskResult of a run that is over, as the job's row says it, without reading the row.
"""

from __future__ import annotations

import asyncio
import copy
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pgonly_django.compat import TaskError, TaskResultStatus
from pgonly_django.conf import LONGEST
from pgonly_django.context.calls import SHORT_SECONDS
from pgonly_django.context.run import HoldRequest, Run
from pgonly_django.database.statement import printable
from pgonly_django.error_texts import formatted, name_of, path_of, text_of, traceback_of
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
from pgonly_django.limits.provider_answers import asked_seconds
from pgonly_django.models.job import HELD_BY_LENGTH, State
from pgonly_django.queue.claim import UNKNOWN_FOR
from pgonly_django.queue.finish import Finish, Outcome
from pgonly_django.queue.retry import Backoff, delay_seconds
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.error_policies import errors_in, policy_of
from pgonly_django.tasks.options import TaskOptions
from pgonly_django.tasks.registry import UnfitArgumentsError, UnknownTaskError

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


TRACEBACK_LIMIT = 20_000
MESSAGE_LIMIT = 2_000


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    id: str
    name: str


def finish(
    run: Run, outcome: Outcome, state: State, worker: WorkerFacts,
    *, delay: float | None = None, free: bool = False, error: BaseException | None = None, reason: str = "",
    **facts: str | float,
) -> Finish:  # fmt: skip
    """`free`: it costs no attempt. `facts` stand in the entry, beside what is said of every run."""
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


def held(run: Run, worker: WorkerFacts, by: str, reason: str, error: BaseException | None = None) -> Finish:
    """The job waits for a person, at no cost."""
    ended = finish(run, Outcome.HELD, State.HELD, worker, free=True, reason=reason, error=error)
    ended.held_by = printable(str(by))[:HELD_BY_LENGTH]
    return ended


BROKEN_BACKOFF_SECONDS = 60.0


def failed(
    run: Run, outcome: Outcome, error: BaseException, options: TaskOptions, worker: WorkerFacts,
    *, reason: str = "",
) -> Finish:  # fmt: skip
    """As the policies of the task say of `error`, and else its attempts and its backoff."""
    policy, name = policy_of(error, options), name_of(error)
    if policy == "hold_on":
        return held(run, worker, f"error:{name}", f"{reason} {name}: {text_of(error)}".strip(), error)
    if policy == "never_retry":
        return _not_again(run, outcome, error, worker, f"{reason} {name} is never retried.")
    if policy is None and options.retry_on:
        return _not_again(run, outcome, error, worker, f"{reason} {name} is not in retry_on.")
    if policy == "snooze_on":
        if (free := next_free_retry(run)) is not None:
            return _retried_free(run, free, error, options, worker, reason)
        reason = f"{reason} {name} was retried for {FREE_FOR} without counting."
    if run.job.attempt >= run.job.max_attempts:
        return _not_again(run, outcome, error, worker, reason)
    delay, why = _backoff_delay(run, run.job.attempt, error, options)
    return again(run, outcome, error, worker, delay, f"{reason} {why}")


def again(
    run: Run,
    outcome: Outcome,
    error: BaseException,
    worker: WorkerFacts,
    delay: float | None,
    reason: str = "",
) -> Finish:
    """Another attempt after `delay` seconds, where one is left; None: the job fails."""
    if delay is None or run.job.attempt >= run.job.max_attempts:
        return _not_again(run, outcome, error, worker, reason)
    state = State.SCHEDULED if delay > 0 else State.READY
    return finish(run, outcome, state, worker, delay=delay, error=error, reason=reason.strip())


def _not_again(run: Run, outcome: Outcome, error: BaseException, worker: WorkerFacts, reason: str) -> Finish:
    return finish(run, outcome, State.FAILED, worker, error=error, reason=reason.strip())


def _retried_free(
    run: Run, free: FreeRetry, error: BaseException, options: TaskOptions, worker: WorkerFacts, reason: str
) -> Finish:
    delay, why = _backoff_delay(run, free.in_a_row, error, options)
    reason = f"{reason} {why}".strip()
    if delay is None:
        return _not_again(run, Outcome.FAILED, error, worker, reason)
    asked = _asked_for(error)
    if asked is not None and asked <= SHORT_SECONDS and free.in_a_row == 1:
        delay = asked  # the provider knows better; what comes again and again backs off
    delay = max(delay, asked or 0.0, SHORTEST_SECONDS)
    return finish(
        run, Outcome.SNOOZED, State.SCHEDULED, worker, delay=delay, free=True, error=error, reason=reason,
        **free.entry(),
    )  # fmt: skip


def short_pause(options: TaskOptions, error: BaseException) -> float | None:
    """The seconds to wait in place before a step is called again, where its error is one of `snooze_on` and asks for so
    short a wait; else None."""
    asked = _asked_for(error) if options.snooze_on else None
    if asked is None or asked > SHORT_SECONDS or policy_of(error, options) != "snooze_on":
        return None
    return asked


def _asked_for(error: BaseException) -> float | None:
    """The seconds that a provider asks for, by the Retry-After of its answer; None where it asks for none."""
    try:
        errors = list(errors_in(error)) if isinstance(error, BaseExceptionGroup) else [error]
        asked = [seconds for each in errors if (seconds := asked_seconds(each)) is not None]
        return max(asked, default=None)
    except BaseException:  # noqa: BLE001 - attributes of the project's own classes may raise anything
        return None


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


# For so long in a row an error is retried without counting. Then it counts, as any other.
FREE_FOR = timedelta(days=7)
# A backoff that returns less would claim the job again and again, and no attempt would end that.
SHORTEST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class FreeRetry:
    """The place of one in an unbroken row of them: what the job's errors keep of it."""

    in_a_row: int
    since: str

    def entry(self) -> dict[str, str | int]:
        return {"in_a_row": self.in_a_row, "since": self.since}


def next_free_retry(run: Run) -> FreeRetry | None:
    """None where the row has lasted too long. A run that has saved something new begins another row."""
    last = (run.job.errors or [{}])[-1]
    now, number, since = run.now().astimezone(UTC), last.get("in_a_row"), last.get("since")
    if run.got_further or not (isinstance(number, int) and isinstance(since, str)):
        return FreeRetry(1, now.isoformat())
    return None if now - datetime.fromisoformat(since) >= FREE_FOR else FreeRetry(number + 1, since)


def result_after(run: Run, error: BaseException) -> Any:
    """For a backoff: as if this failure were the job's last. None where the task was not found."""
    if run.result is None:
        return None
    told = TaskError(exception_class_path=path_of(error), traceback=formatted(error))
    result = copy.copy(run.result)
    changes = {"status": TaskResultStatus.FAILED, "errors": [*result.errors, told], "finished_at": run.now()}
    vars(result).update(changes)
    return result
