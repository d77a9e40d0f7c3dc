"""Says what happened: every event goes to the log, and to listeners such as metrics and traces."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

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

    `name` is "room.happened", one of those that docs/reference/events.md lists (tests/test_events.py). A listener that
    raises an exception is logged, and so is a filter or a handler, on stderr: the caller goes on.
    """
    logger = logging.getLogger(f"pgonly_django.{name.partition('.')[0]}")
    if logger.isEnabledFor(level):
        log = partial(logger.log, level, message, exc_info=exc_info, extra={"event": name, **facts})
        log_quietly(log, message)
    for listener in tuple(_listeners):
        try:
            listener(name, facts)
        except (Exception, SystemExit):  # noqa: BLE001 - a listener is no part of what happened
            report = partial(logger.exception, "Listener %r failed on %s", listener, name)
            log_quietly(report, f"A listener failed on {name}")


def log_quietly(log: Callable[[], None], message: str) -> None:
    """A filter of the project may raise, or exit: that ends neither a job nor a worker. It is reported on stderr, as
    logging does with the errors of handlers."""
    try:
        log()
    except (Exception, SystemExit):  # noqa: BLE001 - logging catches the errors of handlers, not those of filters
        if logging.raiseExceptions:
            with contextlib.suppress(Exception):
                sys.stderr.write(f"{message}\nIt could not be logged:\n{traceback.format_exc()}")
