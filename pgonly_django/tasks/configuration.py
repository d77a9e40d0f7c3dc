"""An entry of TASKS as it was written: what is wrong with it, in words, before anything is made of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from pgonly_django.conf import unknown_key
from pgonly_django.tasks.options import NO_DEFAULTS, OPTION_NAMES, Defaults
from pgonly_django.tasks.validation import NAME_LENGTH, what_is_wrong_with_name

KEYS = ("BACKEND", "QUEUES", "OPTIONS")


def problems(alias: str, params: Mapping[str, Any]) -> list[str]:
    """Each names the place, the value and the remedy. Empty: the entry is fine."""
    where = f"TASKS[{alias!r}]"
    found = [_unknown(where, key) for key in params if key not in KEYS]
    if len(alias) > NAME_LENGTH:
        found.append(f"{where}: an alias must be at most {NAME_LENGTH} characters long, got {len(alias)}.")
    found += _of_queues(where, params.get("QUEUES", []))
    try:
        Defaults.from_options(alias, _options(where, params))
    except ImproperlyConfigured as error:
        found.append(str(error))
    return found


def usable(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with nothing in them that Django's own backend fails on: a check can say what is wrong then."""
    queues, options = params.get("QUEUES", ["default"]), params.get("OPTIONS", {})
    return {
        **params,
        "QUEUES": queues if not _of_queues("", queues) else [],
        "OPTIONS": options if isinstance(options, Mapping) else {},
    }


def unused_defaults(queues: Iterable[str], by_queue: Iterable[str]) -> list[str]:
    """What to say of each name in OPTIONS["queues"] that no task can have, since QUEUES lacks it."""
    known = sorted(queues)
    return [f"{name!r}{_nearest(name, known)}" for name in by_queue if known and name not in known]


def unknown_queue(alias: str, name: str, queues: Iterable[str]) -> str:
    """The message about a queue that QUEUES lacks; begins as Django's own does."""
    known = sorted(queues)
    return (
        f"Queue '{name}' is not valid for backend. TASKS[{alias!r}][\"QUEUES\"] has {', '.join(map(repr, known))}"
        f"{_nearest(name, known)}: add it there; an empty list allows every name."
    )


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _unknown(where: str, key: str) -> str:
    name = str(key)
    if name.lower() in (*OPTION_NAMES, *NO_DEFAULTS):
        return f'{where}["{name}"] has no effect beside OPTIONS. Put {name.lower()!r} in it.'
    return unknown_key(f'{where}["%s"]', name, (*KEYS, *OPTION_NAMES))


def _of_queues(where: str, queues: Any) -> list[str]:
    if isinstance(queues, str) or not isinstance(queues, Iterable):
        return [f'{where}["QUEUES"] must be a list of names, [] for any name, got {queues!r}.']
    wrong = [(name, reason) for name in queues if (reason := what_is_wrong_with_name(name))]
    return [f'{where}["QUEUES"]: a name must be {reason}, got {name!r}.' for name, reason in wrong]


def _options(where: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    options = params.get("OPTIONS", {})
    if not isinstance(options, Mapping):
        raise ImproperlyConfigured(f'{where}["OPTIONS"] must be a dict, got {options!r}.')
    database = options.get("database")
    if database is not None and not isinstance(database, str):
        raise ImproperlyConfigured(
            f'{where}["OPTIONS"]: database must be an alias of DATABASES, got {database!r}.'
        )
    return options
