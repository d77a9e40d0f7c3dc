"""What follows an attempt that failed: another one, none, or a person's decision."""

from pgonly_django.context.calls import SHORT_SECONDS
from pgonly_django.context.run import Run
from pgonly_django.limits.provider_answers import asked_seconds
from pgonly_django.models.job import State
from pgonly_django.queue.finish import Finish, Outcome
from pgonly_django.queue.retry import Backoff, delay_seconds
from pgonly_django.tasks.error_policies import errors_in, policy_of
from pgonly_django.tasks.options import TaskOptions
from pgonly_django.worker.finishes import MESSAGE_LIMIT, WorkerFacts, finish, held
from pgonly_django.worker.free_retry import FREE_FOR, SHORTEST_SECONDS, FreeRetry, next_free_retry
from pgonly_django.worker.results import result_after
from pgonly_django.worker.tracebacks import name_of, text_of

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
