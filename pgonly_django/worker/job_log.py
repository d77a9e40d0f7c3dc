"""A log line for each run that ended, once its end is written. Attempts that failed have theirs already, with its
traceback, from the slot they failed in."""

from __future__ import annotations

import json
import logging

from pgonly_django import events
from pgonly_django.models.job import State
from pgonly_django.queue.finish import Finish, Outcome
from pgonly_django.worker.ended import Ended

_logger = logging.getLogger("pgonly_django.worker")


def log_end(ended: Ended) -> None:
    """Costs one look at the level where nothing is to be logged: no-op jobs come 20,000 a second."""
    finish = ended.finish
    if finish is None:
        return
    level = logging.INFO if finish.state is State.SUCCEEDED else _level(finish)
    if not (_logger.isEnabledFor(level) or events.has_listeners()):
        return
    if finish.started and not (ended.error is not None and _failed(finish)):
        _log(ended, finish, level)


def _failed(finish: Finish) -> bool:
    return finish.outcome in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.POSTPONED)


def _level(finish: Finish) -> int:
    if finish.state is not State.FAILED:
        return logging.INFO
    return logging.WARNING if finish.outcome is Outcome.DISCARDED else logging.ERROR


def _log(ended: Ended, finish: Finish, level: int) -> None:
    job, seconds = ended.run.job, ended.took_seconds or ended.run.seconds
    how = Outcome.CANCELLED if finish.state is State.CANCELLED else finish.outcome
    reason = json.loads(finish.entry).get("reason", "") if finish.entry else ""
    message = f"{job.task} {job.id}: {how.value} after {seconds:.3g} s{': ' if reason else '.'}{reason}"
    facts = {"job_id": job.id, "task": job.task, "outcome": how.value, "seconds": seconds}
    events.emit("worker.job_ended", message, level=level, **facts)
