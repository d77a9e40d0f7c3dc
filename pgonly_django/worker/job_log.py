"""One log line for each run that ended: an attempt that failed has it at once, with the traceback, from the slot where
it failed; all others once their end is written. At DEBUG one for each start as well."""

import contextlib
import json
import logging
from typing import Any

from pgonly_django.context.run import Run
from pgonly_django.error_texts import name_of
from pgonly_django.events import emit, has_listeners
from pgonly_django.exceptions import Retry, Snooze
from pgonly_django.logs import facts_of
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.claim import UNKNOWN_FOR
from pgonly_django.queue.finish import Finish
from pgonly_django.wording import duration
from pgonly_django.worker.ending import EndedRun, how_it_ended

_logger = logging.getLogger("pgonly_django.worker")

LEFT_NAMED = 20  # jobs in the line of a worker that leaves some behind

# These ends have their line, with a traceback where there is one, from log_failure().
TOLD_AT_ONCE = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.POSTPONED)


def logs_starts() -> bool:
    """Whether there is anything to do for starts. No-op jobs come 20,000 a second, so it is asked once for many."""
    return _logger.isEnabledFor(logging.DEBUG) or has_listeners()


def logs_successes() -> bool:
    """See logs_starts()."""
    return _logger.isEnabledFor(logging.INFO) or has_listeners()


def log_start(run: Run) -> None:
    job = run.job
    message = f"{job.task} {job.id}: started ({_attempt(run)})."
    emit("worker.job_started", message, level=logging.DEBUG, queue=job.queue, **facts_of(run))


def log_end(ended: EndedRun) -> None:
    run, finish = ended.run, ended.finish
    if finish is None or not finish.started or (ended.error is not None and finish.outcome in TOLD_AT_ONCE):
        return
    how, seconds = how_it_ended(finish), ended.took_seconds or run.seconds
    entry = json.loads(finish.entry) if finish.entry else {}
    # Of a Snooze it only says for how long, as the line does.
    reason = "" if isinstance(ended.error, Snooze) else entry.get("reason") or _error_in(entry)
    message = f"{_ended(run, how.value, seconds)}{_then(finish)}{f': {reason}' if reason else '.'}"
    # An error that holds the job is one for a person to look into.
    error = ended.error if how is Outcome.HELD and "exception" in entry else None
    exc_info = error
    facts = {**facts_of(run), "outcome": how.value, "seconds": seconds}
    emit("worker.job_ended", message, level=_level(finish), exc_info=exc_info, **facts)


def log_failure(run: Run, finish: Finish, error: BaseException, *, is_news: bool = True) -> None:
    """For the attempt that failed, with its traceback, or for the task that this worker does not know: a warning where
    that `is_news`. One that was cut
    off has its line by now: what its thread raises in the end changes nothing."""
    if run.abandoned:
        return
    try:
        _log_failure(run, finish, error, is_news)
    except BaseException:  # noqa: BLE001 - a handler of the project may raise anything
        message = f"{run.job.task} {run.job.id} failed, and its error cannot be logged."
        with contextlib.suppress(BaseException):
            emit("worker.attempt_failed", message, level=logging.ERROR, job_id=run.job.id)


def _log_failure(run: Run, finish: Finish, error: BaseException, is_news: bool) -> None:
    facts = facts_of(run)
    if finish.outcome is Outcome.POSTPONED:
        message = f"{run.job.task} {run.job.id}: {error} It is looked for again for {UNKNOWN_FOR}."
        emit("worker.task_unknown", message, level=logging.WARNING if is_news else logging.DEBUG, **facts)
    elif finish.outcome in TOLD_AT_ONCE:
        name = name_of(error)
        how = f"failed with {name}" if finish.outcome is Outcome.FAILED else finish.outcome.value
        level = logging.ERROR if finish.state is State.FAILED else logging.WARNING
        facts |= {"outcome": finish.outcome.value, "error": name, "seconds": run.seconds}
        exc_info = error
        message = f"{_ended(run, how, run.seconds)}{_then(finish)}."
        emit("worker.attempt_failed", message, level=level, exc_info=exc_info, **facts)


def log_fenced(run: Run) -> None:
    """Promise 2 at work: what the run left behind was not written."""
    message = f"{run.job.task} {run.job.id} belongs to another worker by now; its end was not written."
    facts = {"job_id": run.job.id, "task": run.job.task, "attempt": run.job.attempt}
    emit("worker.finish_fenced", message, level=logging.WARNING, **facts)


def log_left(job_ids: list[str], *, is_away: bool) -> None:
    """The worker ends without having written the ends of these."""
    reason = "PostgreSQL is away" if is_away else "their rows are locked"
    message = (
        f"Leaving without having given back {len(job_ids)} job(s), since {reason}; they run elsewhere once their "
        f"leases are over: {', '.join(job_ids[:LEFT_NAMED])}{' ...' if len(job_ids) > LEFT_NAMED else ''}"
    )
    emit("worker.jobs_left", message, level=logging.WARNING, jobs=job_ids)


def _level(finish: Finish) -> int:
    """Discarded and held jobs wait for a person."""
    if finish.state is State.FAILED and how_it_ended(finish).is_error:
        return logging.ERROR
    return logging.WARNING if finish.state in (State.FAILED, State.HELD) else logging.INFO


def _ended(run: Run, how: str, seconds: float) -> str:
    job = run.job
    return f"{job.task} {job.id}: {how} after {duration(seconds)} ({_attempt(run)})"


def _attempt(run: Run) -> str:
    return f"attempt {run.job.attempt} of {run.job.max_attempts}"


def _error_in(entry: dict[str, Any]) -> str:
    """In one line, for ends whose traceback is not logged."""
    name, text = (
        entry.get("exception", "").rpartition(".")[2],
        entry.get("message", "").strip().partition("\n")[0],
    )
    return text if name == Retry.__name__ else ": ".join(filter(None, (name, text)))


def _then(finish: Finish) -> str:
    """What becomes of a job that has not done its work."""
    if finish.outcome not in (*TOLD_AT_ONCE, Outcome.RETRIED, Outcome.SNOOZED):
        return ""
    if finish.state is State.FAILED:
        return "; it is not started again"
    return f"; again in {duration(finish.delay_seconds or 0.0)}"
