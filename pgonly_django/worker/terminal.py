"""The output of a worker where LOGGING shows nothing: its own lines, and the warnings of loggers without a handler."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.utils.log import RequireDebugFalse, RequireDebugTrue

from pgonly_django.compat import tasks_logger
from pgonly_django.logs import OUTSIDE, JobFilter

STARTED = "worker.started"  # the event that is shown as a banner
LEVELS = {0: logging.WARNING, 1: logging.INFO}  # by --verbosity; above these DEBUG
# With --verbosity 2 the calls of the cache, which may be thousands for one job, stay out.
ALL = 3

_ours = logging.getLogger("pgonly_django")
_cache = logging.getLogger("pgonly_django.cache")
_worker = logging.getLogger("pgonly_django.worker")


@dataclass(frozen=True)
class Terminal:
    """The streams of `runworker`, and what to show there. `colors`: what colours the name of a level."""

    out: Any
    err: Any
    verbosity: int = 1
    colors: Mapping[int, Callable[[str], str]] = field(default_factory=dict)
    prefix: str = ""  # of each line: whose it is, where several processes share the terminal


class TerminalHandler(logging.StreamHandler[Any]):
    """A handler that says nothing of a closed or broken stream."""

    def __init__(self, stream: Any, terminal: Terminal) -> None:
        super().__init__(stream)
        self.addFilter(JobFilter())
        self.setFormatter(TerminalFormatter(terminal))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handleError(record)


class TerminalFormatter(logging.Formatter):
    """`time LEVEL message`. A line that the code of a job logs begins with its job, as the worker's own lines do."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(f"%(asctime)s %(level)s {terminal.prefix.replace('%', '%%')}%(job)s%(message)s")
        self.terminal = terminal

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", "")
        if event == STARTED and record.levelno >= logging.INFO:
            return banner(vars(record))
        is_of_a_job = not event and vars(record).get("job_id", "-") != OUTSIDE["job_id"]
        record.job = f"{vars(record)['task']} {vars(record)['job_id']}: " if is_of_a_job else ""
        record.level = self.terminal.colors.get(record.levelno, str)(record.levelname)
        return super().format(record)


def banner(facts: dict[str, Any]) -> str:
    """Returns the facts of the event worker.started, one per line."""
    lines = (
        ("worker", facts["worker"]),
        ("id", facts.get("worker_id")),
        ("database", facts["database"]),
        ("queues", ", ".join(facts["queues"]) or "all"),
        ("processes", facts["processes"] if facts["processes"] > 1 else None),
        ("threads", facts["threads"]),
        ("wake-up", facts["wake_up"]),
        ("lease", f"{facts['lease_seconds']:g} s"),
        ("grace", f"{facts['grace_seconds']:g} s"),
        ("health", facts.get("health")),
        ("stop", "Ctrl-C; twice to release running jobs at once"),
    )
    return "\n".join(f"{label:<9} {fact}" for label, fact in lines if fact is not None)


@contextmanager
def logging_to(terminal: Terminal) -> Iterator[None]:
    """Shows the lines of this package on the terminal unless the project has configured handlers for them, and those of
    Django only where ours are not shown."""
    shows, last_resort = not _ours.hasHandlers(), logging.lastResort
    levels = [(logger, logger.level) for logger in (_ours, _cache)]
    handler = TerminalHandler(terminal.out, terminal)
    if shows:
        _ours.addHandler(handler)
        if _ours.level == logging.NOTSET:
            _ours.setLevel(LEVELS.get(terminal.verbosity, logging.DEBUG))
        if terminal.verbosity < ALL and _cache.level == logging.NOTSET:
            _cache.setLevel(max(_ours.level, logging.INFO))
    if last_resort is not None:
        logging.lastResort = TerminalHandler(terminal.err, terminal)
        logging.lastResort.setLevel(last_resort.level)
    try:
        with _django_where_ours_are_not():
            yield
    finally:
        logging.lastResort = last_resort
        _ours.removeHandler(handler)
        for logger, level in levels:
            logger.setLevel(level)


@contextmanager
def _django_where_ours_are_not() -> Iterator[None]:
    """Limits Django's lines, since Django logs each start and end of a task, and each last traceback, as well. Within
    this block its lines go only to handlers that ours do not reach, usually to the one that mails errors to ADMINS; and
    only its errors do where the lines of successes are turned off. A project that has set up Django's logger itself
    keeps it."""
    logger = tasks_logger
    is_as_it_was_made = logger.level == logging.NOTSET and not logger.handlers and logger.propagate
    if logger.disabled or not is_as_it_was_made:
        yield
        return
    ours, all_of_them = _handlers_of(_worker), _handlers_of(logger)
    shows_ours = any(map(_is_terminal, ours))
    rest = [each for each in all_of_them if each not in ours and not (shows_ours and _is_terminal(each))]
    levels = (logging.INFO, logging.ERROR) if _worker.isEnabledFor(logging.INFO) else (logging.ERROR,)
    taken = [level for level in levels if logger.isEnabledFor(level) and _is_taken(level, rest)]
    logger.handlers[:], logger.propagate, logger.disabled = rest, False, not taken
    logger.setLevel(min(taken, default=logging.CRITICAL))
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate, logger.disabled = [], True, False
        logger.setLevel(logging.NOTSET)


def _is_taken(level: int, handlers: list[logging.Handler]) -> bool:
    """Returns whether one of them takes records of this level. One whose filter drops them all, as that of Django's
    console does without DEBUG, would cost each job two signals for nothing. No filter of the project is asked: what it
    says depends on the record."""
    return any(level >= each.level and not any(map(_drops_all, each.filters)) for each in handlers)


def _drops_all(each: object) -> bool:
    wants_debug = isinstance(each, RequireDebugTrue)
    return (wants_debug or isinstance(each, RequireDebugFalse)) and settings.DEBUG is not wants_debug


def _handlers_of(logger: logging.Logger | None) -> list[logging.Handler]:
    """Returns all handlers that get the records of this logger."""
    found: list[logging.Handler] = []
    while logger is not None:
        found += logger.handlers
        logger = logger.parent if logger.propagate else None
    return found


def _is_terminal(handler: logging.Handler) -> bool:
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    is_stream = isinstance(handler, logging.StreamHandler)
    return isinstance(handler, TerminalHandler) or (is_stream and handler.stream in streams)  # type: ignore[attr-defined] # mypy forgets the class
