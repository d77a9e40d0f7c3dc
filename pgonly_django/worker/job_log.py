"""One log line for each run that ended: an attempt that failed has it at once, with the traceback, from the slot where
it failed; all others once their end is written."""

import contextlib
import json
import logging
from typing import Any

from pgonly_django.context.run import Run
from pgonly_django.events import emit, has_listeners
from pgonly_django.models.job import State
from pgonly_django.queue.finish import Finish, Outcome
from pgonly_django.worker.outcomes import UNKNOWN_FOR, Ended
from pgonly_django.worker.tracebacks import name_of, traceback_of

_logger = logging.getLogger("pgonly_django.worker")


def logs_successes() -> bool:
    """Whether there is anything to do for successes. No-op jobs come 20,000 a second, so it is asked once for many."""
    return _logger.isEnabledFor(logging.INFO) or has_listeners()


def log_end(ended: Ended) -> None:
    finish = ended.finish
    if finish is None or not finish.started:
        return
    if ended.error is not None and finish.outcome in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.POSTPONED):
        return  # log_failure() has said it
    level = logging.WARNING if finish.state is State.HELD else logging.INFO
    if finish.state is State.FAILED:
        level = logging.WARNING if finish.outcome is Outcome.DISCARDED else logging.ERROR
    job, seconds = ended.run.job, ended.took_seconds or ended.run.seconds
    how = Outcome.CANCELLED if finish.state is State.CANCELLED else finish.outcome
    reason = json.loads(finish.entry).get("reason", "") if finish.entry else ""
    message = f"{job.task} {job.id}: {how.value} after {seconds:.3g} s{': ' if reason else '.'}{reason}"
    facts = {"job_id": job.id, "task": job.task, "outcome": how.value, "seconds": seconds}
    emit("worker.job_ended", message, level=level, **facts)


def log_failure(run: Run, finish: Finish, error: BaseException) -> None:
    """For the attempt that failed, with its traceback, or for the task that this worker does not know."""
    try:
        _log_failure(run, finish, error)
    except BaseException:  # noqa: BLE001 - a handler of the project may raise anything
        message = f"{run.job.task} {run.job.id} failed, and its error cannot be logged."
        with contextlib.suppress(BaseException):
            emit("worker.attempt_failed", message, level=logging.ERROR, job_id=run.job.id)


def _log_failure(run: Run, finish: Finish, error: BaseException) -> None:
    job = run.job
    what = f"{job.task} {job.id}"
    facts: dict[str, Any] = {"job_id": job.id, "task": job.task}
    if finish.outcome is Outcome.POSTPONED:
        message = f"{what}: {error} It is looked for again for {UNKNOWN_FOR}."
        emit("worker.task_unknown", message, level=logging.WARNING, **facts)
    elif finish.outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
        is_last = finish.state is State.FAILED
        then = "it is not started again" if is_last else f"again in {finish.delay_seconds or 0:.3g} s"
        message = (
            f"{what}: attempt {job.attempt} of {job.max_attempts} failed with {name_of(error)} "
            f"after {run.seconds:.3g} s; {then}."
        )
        level = logging.ERROR if is_last else logging.WARNING
        exc_info = (type(error), error, traceback_of(error))
        emit("worker.attempt_failed", message, level=level, exc_info=exc_info, attempt=job.attempt, **facts)
