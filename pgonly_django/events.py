"""The one seam for what happened. Logging is built in; metrics and traces subscribe here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

Listener = Callable[[str, dict[str, Any]], None]
_listeners: list[Listener] = []


def subscribe(listener: Listener) -> Callable[[], None]:
    """Call `listener(name, facts)` for every event, in the thread it happens in. Returns the unsubscriber."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def emit(
    name: str,
    message: str,
    *,
    level: int = logging.INFO,
    exc_info: bool | BaseException = False,
    **facts: Any,
) -> None:
    """Log `message` to the logger `pgonly_django.<room of name>` with the facts as `extra`, and tell listeners.

    `name` is "room.happened", e.g. "worker.started". A listener that raises is logged, never propagated.
    """
    logger = logging.getLogger(f"pgonly_django.{name.partition('.')[0]}")
    if logger.isEnabledFor(level):
        logger.log(level, message, exc_info=exc_info, extra={"event": name, **facts})
    for listener in tuple(_listeners):
        try:
            listener(name, facts)
        except Exception:
            logger.exception("Listener %r failed on %s", listener, name)
