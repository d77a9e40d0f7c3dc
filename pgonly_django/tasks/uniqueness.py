"""Which calls of a task make one job: the options unique, unique_for, unique_while, debounce and idempotency_key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from pgonly_django.database.statement import printable
from pgonly_django.exceptions import NotStorableError, OptionError
from pgonly_django.queue.enqueue import Unique
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.arguments import CallSignature
from pgonly_django.tasks.keys import KEY_LENGTH, check_names
from pgonly_django.tasks.options import TaskOptions

WAITING, UNFINISHED, RETAINED = "waiting", "unfinished", "retained"  # of UniqueWhile
# Of a call, as the job will get them: its args and kwargs. None: this call is not unique.
UniqueFunction = Callable[[list[Any], dict[str, Any]], Unique | None]
TextFunction = Callable[[list[Any], dict[str, Any]], str | None]

_DIGEST_LENGTH = 64


def uniqueness(path: str, signature: CallSignature, options: TaskOptions) -> UniqueFunction | None:
    """What says which other jobs the job of a call excludes; None where the task is not unique. `path`: first_path() of
    the task. Raises OptionError for options that do not go together, and for a name that is no argument of it."""
    check_together(options)
    if options.idempotency_key is not None:
        fixed = Unique(_key(path, "idempotency_key", options.idempotency_key), RETAINED)
        return lambda _args, _kwargs: fixed
    rule = options.unique
    if rule is None:
        rule = any(each is not None for each in (options.unique_for, options.unique_while, options.debounce))
    if rule is False:
        return None
    text_of, until = _text_function(rule, signature), _until(options)

    def unique(args: list[Any], kwargs: dict[str, Any]) -> Unique | None:
        text = text_of(args, kwargs)
        if text is None:
            return None
        return Unique(_key(path, "unique", text), until, options.unique_for, options.debounce)

    return unique


def kept_for_its_key(retention: timedelta | None, options: TaskOptions) -> timedelta | None:
    """`retention`, or `unique_for` where that is longer and the key counts as long as the row is there: the row has to
    outlast the period."""
    retains = options.idempotency_key is not None or _until(options) == RETAINED
    if retention is None or options.unique_for is None or not retains or options.unique is False:
        return retention
    return max(retention, options.unique_for)


def _until(options: TaskOptions) -> str:
    if options.unique_while is not None:
        return options.unique_while
    if options.debounce is not None:
        return WAITING
    return UNFINISHED if options.unique_for is None else RETAINED


def check_together(options: TaskOptions) -> None:
    """Raises OptionError for options that exclude each other."""
    if options.debounce is None:
        return
    if options.idempotency_key is not None:
        raise OptionError(
            "debounce and idempotency_key exclude each other. Set .using(debounce=None) for this call."
        )
    if options.unique is False:
        raise OptionError("debounce needs to know which calls are the same: unique must not be False.")
    if options.unique_while not in (None, WAITING):
        rule = "debounce changes the job while it is waiting, so unique_while must be 'waiting' or left out"
        raise OptionError(f"{rule}, got {options.unique_while!r}.")


def _text_function(rule: Any, signature: CallSignature) -> TextFunction:
    if callable(rule):
        return lambda args, kwargs: _text_of(rule(*args, **kwargs), signature)
    names = None if rule is True else tuple(rule)
    check_names("unique", names or (), signature)
    defaults = _defaults(signature)

    def text(args: list[Any], kwargs: dict[str, Any]) -> str:
        """An argument that is the default is left out: so it makes no difference whether it was passed."""
        values = signature.arguments(args, kwargs, with_defaults=False)
        chosen = {n: values[n] for n in (values if names is None else names) if n in values}
        return _canonical(
            {n: v for n, v in chosen.items() if n not in defaults or _canonical(v) != defaults[n]}
        )

    return text


def _text_of(value: Any, signature: CallSignature) -> str | None:
    """The text of what a callable returned."""
    if value is None or isinstance(value, str):
        return value
    what = f"What unique= of {signature.name}() returned"
    if isinstance(value, bool):
        raise OptionError(f"{what} must be a str, another JSON value, or None (not unique), got {value!r}.")
    return _canonical(json.loads(to_json(value, what)))


def _defaults(signature: CallSignature) -> dict[str, str]:
    """By the names of parameters: their defaults, if they are JSON. No call can pass those that are not."""
    texts = {}
    for parameter in signature.signature.parameters.values():
        with suppress(NotStorableError):
            if parameter.default is not parameter.empty:
                texts[parameter.name] = _canonical(json.loads(to_json(parameter.default, "")))
    return texts


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _key(path: str, kind: str, text: str) -> str:
    """As it is stored: the readable head for people, and a hash of all of it, so that two keys never look the same."""
    raw = json.dumps([path, kind, text]).encode()
    head = printable(f"{path.rpartition('.')[2]} {text}")[: KEY_LENGTH - _DIGEST_LENGTH - 2]
    return f"{head} #{hashlib.sha256(raw).hexdigest()}"
