"""Says what happened: every event goes to the log, and to listeners such as metrics and traces."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

# Every event, and when it happens. "room.happened": the room is the end of the logger's name. docs/events.md lists the
# same names (tests/test_events.py).
EVENTS = {
    "queue.notify_failed": "workers could not be told of jobs; they find them when they look next",
    "queue.rescued": "a job of a dead worker went back, or was stopped after its third death",
    "task.progress": "a task called directly reported its progress",
    "task.log": "a task called directly logged a line",
    "worker.attempt_failed": "an attempt raised an exception",
    "worker.cleanup_failed": "a connection could not be cleaned up after a job",
    "worker.connection_broken": "a job left a broken connection, which was closed",
    "worker.database_back": "PostgreSQL answers again",
    "worker.database_lost": "PostgreSQL does not answer; the worker tries again until it does",
    "worker.finish_fenced": "a job belongs to another worker by now, so its end was not written",
    "worker.finish_refused": "PostgreSQL refused to store the end of a job, which fails with that reason",
    "worker.finished_signal_failed": "a receiver of task_finished raised an exception",
    "worker.heartbeat_failed": "the heartbeat failed; it is tried again",
    "worker.interrupting": "a running job has to end",
    "worker.job_cut_off": "a job ignored its interruption: its row was closed, its thread is stuck",
    "worker.job_ended": "a run ended; with its duration and outcome",
    "worker.jobs_kept": "finished jobs could not be deleted; they are tried again a day later",
    "worker.jobs_left": "the worker ended without having given back all of its jobs; they are rescued",
    "worker.leases_not_renewed": "the table of jobs was locked; the leases are tried again",
    "worker.listen_unavailable": "LISTEN does not work, because of a pooler: the worker polls",
    "worker.maintenance_failed": "a duty of the maintenance failed; it is tried again in the next round",
    "worker.position_unsaved": "iterate() could not save its position; it goes on",
    "worker.report_refused": "PostgreSQL refused to store the progress or the log lines of a job",
    "worker.slot_interrupted": "an interruption arrived when its job had ended already",
    "worker.stopping": "a planned stop began",
    "worker.task_unknown": "the worker does not know the task of a job, which is tried again later",
    "worker.thread_refused": "the system starts no more threads; fewer slots work",
    "worker.transaction_ended": "the open transaction of a dead worker was ended",
    "worker.transaction_leaked": "a job left a transaction open, which was rolled back",
    "worker.transactions_not_ended": "transactions of dead workers belong to another role and stay open",
    "cache.cleaning_failed": "pruning, evicting or counting failed; it is tried again",
    "cache.failed": "a call of the cache failed, and what ON_ERROR says was done",
    "cache.lock_lost": "a lock was lost while its holder believed to hold it",
    "sessions.fallback_failed": "the fallback engine failed",
    "sessions.kept": "expired sessions could not be deleted; they are tried again a day later",
    "sessions.moved": "a session was moved from the fallback engine",
    "sessions.no_geoip": "the devices page shows no places: the GeoIP database cannot be read",
    "sessions.revoked": "sessions were ended by revoke()",
    "sessions.touch_failed": "last_seen_at could not be written",
    "sessions.value_left_out": "a value of an old session cannot be stored and was left out",
}

EventListener = Callable[[str, dict[str, Any]], None]
_listeners: list[EventListener] = []


def subscribe(listener: EventListener) -> Callable[[], None]:
    """Call `listener(name, facts)` for every event, in the thread it happens in. Returns the unsubscriber."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def has_listeners() -> bool:
    return bool(_listeners)


def emit(name: str, message: str, *, level: int = logging.INFO, exc_info: Any = False, **facts: Any) -> None:
    """Log `message` to the logger `pgonly_django.<room>` with the facts as `extra`, and tell the listeners.

    `name` is one of EVENTS, `exc_info` is as in logging. A listener that raises an exception is logged, and so is a
    filter or a handler, on stderr: the caller goes on.
    """
    logger = logging.getLogger(f"pgonly_django.{name.partition('.')[0]}")
    if logger.isEnabledFor(level):
        log = partial(logger.log, level, message, exc_info=exc_info, extra={"event": name, **facts})
        _log_quietly(log, message)
    for listener in tuple(_listeners):
        try:
            listener(name, facts)
        except (Exception, SystemExit):  # noqa: BLE001 - a listener is no part of what happened
            report = partial(logger.exception, "Listener %r failed on %s", listener, name)
            _log_quietly(report, f"A listener failed on {name}")


def _log_quietly(log: Callable[[], None], message: str) -> None:
    """A filter of the project may raise, or exit: that ends neither a job nor a worker. It is reported on stderr, as
    logging does with the errors of handlers."""
    try:
        log()
    except (Exception, SystemExit):  # noqa: BLE001 - logging catches the errors of handlers, not those of filters
        if logging.raiseExceptions:
            with contextlib.suppress(Exception):
                sys.stderr.write(f"{message}\nIt could not be logged:\n{traceback.format_exc()}")
