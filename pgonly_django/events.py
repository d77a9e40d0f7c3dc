"""Reports what happened: every event goes to the log, and to listeners such as metrics and traces."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

EventListener = Callable[[str, dict[str, Any]], None]
TakesEvents = Callable[[], contextlib.AbstractContextManager[None]]  # see handed_to()
_listeners: list[EventListener] = []
_thread = threading.local()


def subscribe(listener: EventListener) -> Callable[[], None]:
    """Calls `listener(name, facts)` for every event, in the thread that logs it. Returns a function to stop it."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def has_listeners() -> bool:
    return bool(_listeners)


def is_wanted(name: str, level: int) -> bool:
    """Returns whether an event is logged, or told to a listener. Of events that come by the thousand, ask once."""
    return bool(_listeners) or _logger_of(name).isEnabledFor(level)


@contextlib.contextmanager
def handed_to(take: Callable[[Callable[[], None]], None]) -> Iterator[None]:
    """Gives `take` each event of this thread within the block, as a function that logs it and tells the listeners. It
    serves a thread that may not wait for a handler of the project."""
    before, _thread.take = getattr(_thread, "take", None), take
    try:
        yield
    finally:
        _thread.take = before


def emit(
    name: str, message: str, *, level: int = logging.INFO, exc_info: Any = False, at: Any = None, **facts: Any
) -> None:  # fmt: skip
    """Logs `message` to the logger `pgonly_django.<room>` with the facts as `extra`, and tells the listeners.

    `name` is "room.happened", one of those that docs/reference/events.md lists (tests/test_events.py). A listener that
    raises an exception is logged, and so is a filter or a handler, on stderr: the caller continues. `at`: when it
    happened, by time.time(), if not now.
    """
    if not is_wanted(name, level):
        return
    raised = sys.exc_info() if exc_info is True else exc_info
    take = getattr(_thread, "take", None)
    if take is None:
        _say(name, message, level, raised, facts, at)
    else:
        take(partial(_say, name, message, level, raised, facts, at or time.time()))


def _logger_of(name: str) -> logging.Logger:
    return logging.getLogger(f"pgonly_django.{name.partition('.')[0]}")


def _say(name: str, message: str, level: int, exc_info: Any, facts: dict[str, Any], at: float | None) -> None:
    logger = _logger_of(name)
    if logger.isEnabledFor(level):
        log_quietly(partial(_log, logger, level, message, exc_info, {"event": name, **facts}, at), message)
    tell_listeners(name, facts)


def _log(
    logger: logging.Logger, level: int, message: str, exc_info: Any, extra: dict[str, Any], at: float | None
) -> None:
    """Logs as Logger.log() does, but does not look for the caller: that takes a quarter of the time of a line, and
    always finds this module."""
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    record = logger.makeRecord(logger.name, level, __file__, 0, message, (), exc_info or None, "emit", extra)
    if at is not None:
        record.relativeCreated += (at - record.created) * 1000
        record.created, record.msecs = at, float(int(at % 1 * 1000))
    logger.handle(record)


def tell_listeners(name: str, facts: dict[str, Any]) -> None:
    """Does the half of emit() that concerns listeners, for an event that has no line in the log."""
    for listener in tuple(_listeners):
        try:
            listener(name, facts)
        except (Exception, SystemExit):  # noqa: BLE001 - a listener is not part of what happened
            report = partial(_logger_of(name).exception, "Listener %r failed on %s", listener, name)
            log_quietly(report, f"A listener failed on {name}")


def log_quietly(log: Callable[[], None], message: str) -> None:
    """Logs without raising. A filter of the project may raise, or exit: that ends neither a job nor a worker. It is
    reported on stderr, as logging does with the errors of handlers."""
    try:
        log()
    except (Exception, SystemExit):  # noqa: BLE001 - logging catches the errors of handlers, not those of filters
        if logging.raiseExceptions:
            with contextlib.suppress(Exception):
                sys.stderr.write(f"{message}\nIt could not be logged:\n{traceback.format_exc()}")
