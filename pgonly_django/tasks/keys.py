"""Keys that follow from the arguments of a call. An option says how: a template over the arguments such as
"account:{account_id}", or a callable that gets them."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable
from string import Formatter
from typing import Any

from pgonly_django.database.statement import printable
from pgonly_django.exceptions import OptionError, WrongArgumentsError
from pgonly_django.tasks.arguments import CallSignature

# Of a call, as the job will get them: its args and kwargs.
KeyFunction = Callable[[list[Any], dict[str, Any]], Any]

KEY_LENGTH = 255  # of the columns
_MARK = " #sha256:"
_HEAD_LENGTH = KEY_LENGTH - len(_MARK) - 64
# What ends the argument's name in a field of a template: "{payload[id]}".
_NAME_ENDS = re.compile(r"[.\[]")


def key_function(option: str, rule: str | Callable[..., Any], signature: CallSignature) -> KeyFunction:
    """What makes the key of a call by `rule`; the key is None where the callable says so. Raises OptionError for a
    template with the name of an argument that the function does not have."""
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
    """Raises OptionError, with the nearest name, for one that is no argument of the function."""
    for name in names:
        if signature.takes(name):
            continue
        near = difflib.get_close_matches(name, signature.names, n=1)
        known = ", ".join(signature.names) or "none"
        hint = f"Did you mean {near[0]!r}?" if near else f"Its arguments: {known}."
        raise OptionError(f"{option}: {signature.name}() has no argument {name!r}. {hint}")


def stored_key(key: str) -> str:
    """`key` itself, or its readable head and a hash where the column cannot hold it. Nor is it empty: the looks for
    keys (queue/groups.py) begin behind the empty one."""
    head = printable(key)
    if head == key and 0 < len(key) <= KEY_LENGTH and _MARK not in key:
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{head[:_HEAD_LENGTH].replace(_MARK, ' ?')}{_MARK}{digest}"


def _names_in(option: str, template: str) -> list[str]:
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise OptionError(f"{option}={template!r} is no template: {error}.") from error
    names = [_NAME_ENDS.split(name)[0] for name in fields]
    if any(not name or name.isdigit() for name in names):
        remedy = "such as 'account:{account_id}'"
        raise OptionError(f"{option}={template!r}: give each field the name of an argument, {remedy}.")
    return names
