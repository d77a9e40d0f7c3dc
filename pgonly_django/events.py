"""The one seam for what happened. Logging is built in; metrics and traces subscribe here."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

Listener = Callable[[str, dict[str, Any]], None]
_listeners: list[Listener] = []


def subscribe(listener: Listener) -> Callable[[], None]:
    """Call `listener(name, facts)` for every event, in the thread it happens in. Returns the unsubscriber."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def has_listeners() -> bool:
    return bool(_listeners)


def emit(
    name: str,
    message: str,
    *,
    level: int = logging.INFO,
    exc_info: Any = False,
    **facts: Any,
) -> None:
    """Log `message` to the logger `pgonly_django.<room of name>` with the facts as `extra`, and tell listeners.

    `name` is "room.happened", e.g. "worker.started". `exc_info` as in logging. A listener that raises is logged,
    never propagated; so is a filter or a handler, on stderr.
    """
    logger = logging.getLogger(f"pgonly_django.{name.partition('.')[0]}")
    if logger.isEnabledFor(level):
        _quietly(
            message, partial(logger.log, level, message, exc_info=exc_info, extra={"event": name, **facts})
        )
    for listener in tuple(_listeners):
        try:
            listener(name, facts)
        except (Exception, SystemExit):  # noqa: BLE001 - a listener is no part of what happened
            report = partial(logger.exception, "Listener %r failed on %s", listener, name)
            _quietly(f"A listener failed on {name}", report)


def _quietly(message: str, log: Callable[[], None]) -> None:
    """A filter of the project's may raise, or exit: that ends neither a job nor a worker."""
    try:
        log()
    except (Exception, SystemExit):  # noqa: BLE001 - handlers look after their own errors, filters do not
        _say_on_stderr(message)


def _say_on_stderr(message: str) -> None:
    """As logging does with its own errors."""
    if logging.raiseExceptions:
        with contextlib.suppress(Exception):
            sys.stderr.write(f"{message}\nIt could not be logged:\n{traceback.format_exc()}")
