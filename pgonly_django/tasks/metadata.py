"""The metadata of jobs: that of a call, checked and copied before any statement is sent, and what instruments add to
it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
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
# Task, args, kwargs, and the metadata as JSON; None: that of the task.
Call = tuple[Any, Sequence[Any], Mapping[str, Any], str | None]
Jobs = Sequence[tuple[Any, NewJob]]
BAGGAGE = "baggage"


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


def instrumented(jobs: Jobs, write: Callable[[Jobs], list[Any]], *, is_bulk: bool) -> list[Any]:
    """`write(jobs)`, the jobs with what they carry. It returns their results, and raises what it raises."""
    seen = [
        EnqueuedJob(new.template.task, new.template.queue, json.loads(new.metadata or "{}"))
        for _, new in jobs
    ]
    enqueue = Enqueue(list(seen), is_bulk)
    with around(instruments.enqueues, enqueue):
        results = write(_with_headers(jobs, _headers(enqueue)))
        for job, result in zip(seen, results, strict=True):
            job.id, job.is_duplicate = result.id, result.is_duplicate
    return results


def _headers(enqueue: Enqueue) -> dict[str, str]:
    """By their names, each as JSON. Those of a later instrument win; of baggage, a list, all are kept."""
    found: dict[str, str] = {}
    for headers in instruments.call_all(instruments.carriers, enqueue, read=_texts):
        for name, text in headers.items():
            is_list = name == BAGGAGE and text[0] == found.get(name, "")[:1] == '"'
            found[name] = f"{found[name][:-1]},{text[1:]}" if is_list else text
    return found


def _texts(headers: Any) -> dict[str, str]:
    """As JSON, what can be stored."""
    if not isinstance(headers, Mapping):
        return {}
    return {name: text for name, value in headers.items() if (text := _as_json(name, value))}


def _as_json(name: Any, value: Any) -> str:
    """ "" where it cannot be stored."""
    try:
        if isinstance(name, str) and to_json(name, "Its name"):
            return to_json(value, "It")
        reason = "its name is no text"
    except NotStorableError as error:
        reason = str(error)
    _say_left_out(str(name), reason)
    return ""


def _with_headers(jobs: Jobs, headers: Mapping[str, str]) -> Jobs:
    if not headers:
        return jobs
    alone = _merged(None, headers)
    return [
        (task, new._replace(metadata=alone if new.metadata is None else _merged(new.metadata, headers)))
        for task, new in jobs
    ]


def _merged(metadata: str | None, headers: Mapping[str, str]) -> str | None:
    """The metadata of a call with the headers that it does not set itself, and that fit: else the longest are left out.
    The headers of a trace belong together: a call that sets one of them gets none of the others."""
    own = set(json.loads(metadata or "{}"))
    own |= set(TRACE_HEADERS) if own & set(TRACE_HEADERS) else set()
    added = {name: text for name, text in headers.items() if name not in own}
    while added:
        members = ",".join(f"{json.dumps(name)}:{text}" for name, text in added.items())
        merged = f"{{{members}}}" if metadata is None else f"{metadata[:-1]},{members}}}"
        if (size := len(merged.encode())) <= METADATA_LIMIT:
            return merged
        longest = max(added, key=lambda name: len(added[name]))
        del added[longest]
        _say_left_out(longest, f"the metadata would have {size:,} bytes, more than {METADATA_LIMIT:,}")
    return metadata


def _say_left_out(name: str, reason: str) -> None:
    message = f"A job does not carry the header {name[:100]!r}: {reason}"
    emit("instruments.header_left_out", message, level=logging.WARNING, header=name[:100])
