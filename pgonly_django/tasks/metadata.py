"""A call, and which metadata it may have: that is checked, and copied, before any statement is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgonly_django.exceptions import NotStorableError, OptionError
from pgonly_django.queue.metadata import METADATA_LIMIT
from pgonly_django.queue.values import to_json

SHOWN = 100
# Task, args, kwargs, and the metadata as JSON; None: that of the task.
Call = tuple[Any, Sequence[Any], Mapping[str, Any], str | None]


def metadata_text(metadata: Mapping[str, Any] | None, where: str) -> str | None:
    """As JSON for the row; None where there is none. Raises OptionError for what is no dict with text as its keys, and
    NotStorableError for values that are not JSON, or more than 8 KB of it."""
    if not isinstance(metadata, Mapping | None):
        raise OptionError(f"{where}: metadata must be a dict, or None, got {_shown(metadata)}.")
    if not metadata:
        return None
    for key in metadata:
        if not isinstance(key, str):
            raise OptionError(f"{where}: the keys of metadata must be text, got {_shown(key)}.")
    what = f"The metadata of {where}"
    text = to_json(dict(metadata), what)
    if (size := len(text.encode())) > METADATA_LIMIT:
        reason = f"it has {size:,} bytes, more than {METADATA_LIMIT:,}; keep it in a row or file of your own"
        raise NotStorableError(what, reason)
    return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
