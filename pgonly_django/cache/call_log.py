"""Logs what calls of the cache found and did, at DEBUG on the logger `pgonly_django.cache`."""

import logging
from functools import partial
from typing import Any

from pgonly_django.events import log_quietly

logger = logging.getLogger("pgonly_django.cache")
DEBUG = logging.DEBUG
NAMED = 5
# The level is asked once in each call, and by frequent calls before say(): if it is off, that costs 0.04 of the 16 to
# 26 us of a get().
is_on = logger.isEnabledFor


def say(what: str, *keys: bytes, detail: str = "") -> None:
    """Logs the call. `what` is one word: hit, miss, set, delete, ... The event of the record is "cache." and that word.
    Without keys nothing is logged."""
    if not keys or not is_on(DEBUG):
        return
    location = keys[0].decode().partition(":")[0]
    names = [key.decode().partition(":")[2] for key in keys]
    shown = ", ".join(map(repr, names[:NAMED])) + (
        f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    )
    message = f"{what} {shown} in {location}{detail and f': {detail}'}"
    facts = {"key": names[0]} if len(keys) == 1 else {"keys": names}
    extra: dict[str, Any] = {"event": f"cache.{what}", "location": location, **facts}
    log_quietly(partial(logger.debug, "%s", message, extra=extra), message)
