"""The metadata of jobs: that of a call, checked before any statement is sent, and what instruments add to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from pgonly_django import instruments
from pgonly_django.events import emit
from pgonly_django.exceptions import NotStorableError, OptionError
from pgonly_django.instruments import Enqueue, EnqueuedJob, around
from pgonly_django.queue.enqueue import NewJob
from pgonly_django.queue.values import to_json

SHOWN = 100
# Bytes of JSON in one row, the headers of traces included.
METADATA_LIMIT = 8192
# What carries a trace: of no interest to a person who looks at a list.
TRACE_HEADERS = ("traceparent", "tracestate", "baggage", "sentry-trace")
# Task, args, kwargs, and what the job carries besides what those of the task do.
Call = tuple[Any, Sequence[Any], Mapping[str, Any], Mapping[str, Any] | None]
Jobs = Sequence[tuple[Any, NewJob]]
BAGGAGE = "baggage"


def metadata_text(metadata: Mapping[str, Any] | None, where: str) -> str | None:
    """Returns the metadata as JSON for the row; None where there is none. Raises OptionError for anything that is not a
    dict with text as its keys, and NotStorableError for values that are not JSON, or more than 8 KB of it."""
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
        reason = f"it has {size:,} bytes, more than {METADATA_LIMIT:,}; keep it in your own row or file"
        raise NotStorableError(what, reason)
    return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def instrumented(jobs: Jobs, write: Callable[[Jobs], list[Any]], *, is_bulk: bool) -> list[Any]:
    """Calls `write(jobs)`: the jobs with what they carry. Returns their results, and raises what it raises."""
    seen = [
        EnqueuedJob(new.template.task, new.template.queue, json.loads(_text_in(new) or "{}"))
        for _, new in jobs
    ]
    enqueue = Enqueue(list(seen), is_bulk)
    with around(instruments.enqueues, enqueue):
        if headers := _headers(enqueue):
            merged = cache(lambda metadata: _merged(metadata, headers))
            jobs = [(task, new.carrying(metadata=merged(_text_in(new)))) for task, new in jobs]
        results = write(jobs)
        for job, result in zip(seen, results, strict=True):
            job.id, job.is_duplicate = result.id, result.is_duplicate
    return results


def _text_in(new: NewJob) -> str | None:
    return (new.more or {}).get("metadata")


def _headers(enqueue: Enqueue) -> dict[str, Any]:
    """Returns the headers by their names. Those of a later instrument win; of baggage, a list, all are kept."""
    found: dict[str, Any] = {}
    for headers in instruments.call_all(instruments.carriers, enqueue, read=_storable):
        if isinstance(found.get(BAGGAGE), str) and isinstance(headers.get(BAGGAGE), str):
            headers[BAGGAGE] = f"{found[BAGGAGE]},{headers[BAGGAGE]}"
        found |= headers
    return found


def _storable(headers: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else ():
        if not isinstance(name, str):
            _say_left_out(str(name), "its name is not a str")
            continue
        try:
            found |= json.loads(to_json({name: value}, "It"))
        except NotStorableError as error:
            _say_left_out(name, str(error))
    return found


def _merged(metadata: str | None, headers: Mapping[str, Any]) -> str | None:
    """Returns the metadata of a call with the headers that it does not set itself, and that fit: otherwise the longest
    are left out. The headers of a trace belong together: a call that sets one of them gets none of the others."""
    own = json.loads(metadata or "{}")
    taken = {*own, *(() if own.keys().isdisjoint(TRACE_HEADERS) else TRACE_HEADERS)}
    added = {name: value for name, value in headers.items() if name not in taken}
    while added:
        merged = to_json(own | added, "It")
        if (size := len(merged.encode())) <= METADATA_LIMIT:
            return merged
        longest = max(added, key=lambda name: len(to_json(added[name], "It")))
        del added[longest]
        _say_left_out(longest, f"the metadata would have {size:,} bytes, more than {METADATA_LIMIT:,}")
    return metadata


def _say_left_out(name: str, reason: str) -> None:
    message = f"A job does not carry the header {name[:100]!r}: {reason}"
    emit("instruments.header_left_out", message, level=logging.WARNING, header=name[:100])
