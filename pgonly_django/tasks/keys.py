"""What follows from the arguments of a call: its concurrency key, its budget, and its unique key, which decides which
calls share one job. An option says how: a template over the arguments such as "account:{account_id}", or a callable
that gets them."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from string import Formatter
from typing import Any

from pgonly_django.database.statement import printable
from pgonly_django.exceptions import NotStorableError, OptionError, WrongArgumentsError
from pgonly_django.queue.enqueue import Unique
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.arguments import CallSignature
from pgonly_django.tasks.options import UNIQUE_WHILE, TaskOptions

# Of a call, as the job will get them: its args and kwargs.
KeyFunction = Callable[[list[Any], dict[str, Any]], Any]
Columns = Callable[[list[Any], dict[str, Any]], dict[str, Any]]
# None: the call is not unique.
UniqueFunction = Callable[[list[Any], dict[str, Any]], Unique | None]

WHILE_WAITING, WHILE_UNFINISHED, WHILE_RETAINED = UNIQUE_WHILE

KEY_LENGTH = 255  # of the columns
_MARK = " #sha256:"
_DIGEST_LENGTH = 64
_HEAD_LENGTH = KEY_LENGTH - len(_MARK) - _DIGEST_LENGTH
# What ends the argument's name in a field of a template: "{payload[id]}".
_NAME_ENDS = re.compile(r"[.\[]")


def key_function(option: str, rule: str | Callable[..., Any], signature: CallSignature) -> KeyFunction:
    """Returns a function that makes the key of a call by `rule`; the key is None where the callable says so. Raises
    OptionError for a template with the name of an argument that the function does not have."""
    if not isinstance(rule, str):
        return lambda args, kwargs: rule(*args, **kwargs)
    check_names(option, _names_in(option, rule), signature)
    if rule in signature.names:
        raise OptionError(
            f"{option}={rule!r} is the same for all calls. For the argument write '{{{rule}}}'."
        )

    def fill_in(args: list[Any], kwargs: dict[str, Any]) -> str:
        try:
            return rule.format_map(signature.arguments(args, kwargs))
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            reason = f"{option}={rule!r} has no value for them: {type(error).__name__}: {error}"
            raise WrongArgumentsError(f"{signature.name}{signature.signature}", reason) from error

    return fill_in


def check_names(option: str, names: Iterable[str], signature: CallSignature) -> None:
    """Raises OptionError, with the nearest name, for one that is not an argument of the function."""
    for name in names:
        if signature.takes(name):
            continue
        near = difflib.get_close_matches(name, signature.names, n=1)
        known = ", ".join(signature.names) or "none"
        hint = f"Did you mean {near[0]!r}?" if near else f"Its arguments: {known}."
        raise OptionError(f"{option}: {signature.name}() has no argument {name!r}. {hint}")


def stored_key(key: str) -> str:
    """Returns `key` itself, or its readable head and a hash where the column cannot hold it. It is never empty: the
    looks for keys (queue/limited/look.py) begin after the empty one."""
    head = printable(key)
    if head == key and 0 < len(key) <= KEY_LENGTH and _MARK not in key:
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{head[:_HEAD_LENGTH].replace(_MARK, ' ?')}{_MARK}{digest}"


def _names_in(option: str, template: str) -> list[str]:
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise OptionError(f"{option}={template!r} is not a template: {error}.") from error
    names = [_NAME_ENDS.split(name)[0] for name in fields]
    if any(not name or name.isdigit() for name in names):
        remedy = "such as 'account:{account_id}'"
        raise OptionError(f"{option}={template!r}: give each field the name of an argument, {remedy}.")
    return names


def call_columns(signature: CallSignature, options: TaskOptions) -> Columns | None:
    """Returns a function that makes those columns of a job that depend on the arguments of its call: concurrency_key,
    concurrency_limit and slots. A limited job has `slots`, even if it is 1. Returns None for most tasks, which have
    none. Raises OptionError for a name that is not an argument of the function, also in `budget`, which the worker
    fills in."""
    if options.budget is not None:
        key_function("budget", options.budget, signature)
    slots, limit, rule = options.slots, options.concurrency_limit, options.concurrency_key
    heavy = {"slots": slots} if slots > 1 else {}
    if rule is None:
        return (lambda _args, _kwargs: heavy) if heavy else None
    key_of = key_function("concurrency_key", rule, signature)

    def columns(args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        key = key_of(args, kwargs)
        if key is None:
            return heavy
        if not isinstance(key, str | int) or isinstance(key, bool):
            rule = f"concurrency_key of {signature.name}() must return a str, an int or None (not limited)"
            raise OptionError(f"{rule}, got {key!r}.")
        return {"concurrency_key": stored_key(str(key)), "concurrency_limit": limit, "slots": slots}

    return columns


def budget_name(
    rule: str | None, signature: CallSignature, args: list[Any], kwargs: dict[str, Any]
) -> str | None:
    """Returns the name of the budget of one call: the option `budget` is a name, or a template such as
    "project:{project_id}". Raises WrongArgumentsError where the template has no value."""
    return None if rule is None else str(key_function("budget", rule, signature)(args, kwargs))


def uniqueness(path: str, signature: CallSignature, options: TaskOptions) -> UniqueFunction | None:
    """Returns a function that says which other jobs the job of a call excludes; None where the task is not unique.
    `path`: first_path() of the task. Raises OptionError for options that exclude each other, and for a name that is not
    an argument of it."""
    check_together(options)
    if options.idempotency_key is not None:
        fixed = Unique(_key(path, "idempotency_key", options.idempotency_key), WHILE_RETAINED)
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
    """Returns `retention`, or `unique_for` where that is longer and the key counts as long as the row exists: the row
    has to outlast the period."""
    retains = options.idempotency_key is not None or _until(options) == WHILE_RETAINED
    if retention is None or options.unique_for is None or not retains or options.unique is False:
        return retention
    return max(retention, options.unique_for)


def _until(options: TaskOptions) -> str:
    if options.unique_while is not None:
        return options.unique_while
    if options.debounce is not None:
        return WHILE_WAITING
    return WHILE_UNFINISHED if options.unique_for is None else WHILE_RETAINED


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
    if options.unique_while not in (None, WHILE_WAITING):
        rule = "debounce changes the job while it is waiting, so unique_while must be 'waiting' or left out"
        raise OptionError(f"{rule}, got {options.unique_while!r}.")


def _text_function(rule: Any, signature: CallSignature) -> KeyFunction:
    if callable(rule):
        return lambda args, kwargs: _text_of(rule(*args, **kwargs), signature)
    names = None if rule is True else tuple(rule)
    check_names("unique", names or (), signature)
    defaults = _defaults(signature)

    def text(args: list[Any], kwargs: dict[str, Any]) -> str:
        """Returns the text of the arguments. A default is left out, so it does not matter whether it was passed."""
        values = signature.arguments(args, kwargs, with_defaults=False)
        chosen = {n: values[n] for n in (values if names is None else names) if n in values}
        return _canonical(
            {n: v for n, v in chosen.items() if n not in defaults or _canonical(v) != defaults[n]}
        )

    return text


def _text_of(value: Any, signature: CallSignature) -> str | None:
    """Returns the text of what a callable returned."""
    if value is None or isinstance(value, str):
        return value
    what = f"What unique= of {signature.name}() returned"
    if isinstance(value, bool):
        raise OptionError(f"{what} must be a str, another JSON value, or None (not unique), got {value!r}.")
    return _canonical(json.loads(to_json(value, what)))


def _defaults(signature: CallSignature) -> dict[str, str]:
    """Returns the defaults that are JSON, by the names of parameters. No call can pass those that are not."""
    texts = {}
    for parameter in signature.signature.parameters.values():
        with suppress(NotStorableError):
            if parameter.default is not parameter.empty:
                texts[parameter.name] = _canonical(json.loads(to_json(parameter.default, "")))
    return texts


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _key(path: str, kind: str, text: str) -> str:
    """Returns the key as it is stored: the readable head, and a hash of all of it, so that no two look the same."""
    raw = json.dumps([path, kind, text]).encode()
    head = printable(f"{path.rpartition('.')[2]} {text}")[: KEY_LENGTH - _DIGEST_LENGTH - 2]
    return f"{head} #{hashlib.sha256(raw).hexdigest()}"
