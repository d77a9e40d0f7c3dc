"""Checks whether a call fits the function and JSON. enqueue() finds out, not a worker two hours later."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import repeat
from typing import Any

from pgonly_django.exceptions import NotStorableError, WrongArgumentsError
from pgonly_django.queue.values import many_to_json, to_json

# PostgreSQL parses at most 2**24 elements ("1," each) into JSONB, of at most 256 MB. It would refuse more, and the
# caller's transaction would be lost.
LENGTH_LIMIT = 32_000_000
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class CallSignature:
    """The signature of a task function without its context. Most calls are checked by counting their arguments."""

    def __init__(self, function: Callable[..., Any], takes_context: bool) -> None:
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1 if takes_context else 0 :]
        positional = [p for p in parameters if p.kind in POSITIONAL]
        takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.name = function.__qualname__
        self._an_argument = f"An argument of {self.name}()"
        self.names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self._any_named = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        self._positional = positional
        self.places = {p.name: place for place, p in enumerate(positional)}
        self.signature = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
        self._least = sum(p.default is p.empty for p in positional)
        self._most = float("inf") if takes_any else len(positional)
        self._count_decides = not any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raises WrongArgumentsError with Python's own words for what is missing or too much."""
        if self._count_decides and not kwargs and self._least <= len(args) <= self._most:
            return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise WrongArgumentsError(f"{self.name}{self.signature}", str(error)) from error

    def takes(self, name: str) -> bool:
        """Returns whether arguments() may have a value of this name."""
        return name in self.signature.parameters or self._any_named is not None

    def arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], *, with_defaults: bool = True
    ) -> dict[str, Any]:
        """Returns the parameters of a call that check() passes, by name; those of `**kwargs` by their names."""
        bound = self.signature.bind(*args, **kwargs)
        if with_defaults:
            bound.apply_defaults()
        others = bound.arguments.pop(self._any_named, {}) if self._any_named else {}
        return others | bound.arguments

    def replaced(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], new: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Returns the call with the values of `new`, by the names of parameters. Each argument is passed as it was, by
        its place or by its name, and further ones by name: a callable that makes a key may take them only so."""
        args, kwargs = list(args), dict(kwargs)
        for name, value in new.items():
            place = self.places.get(name, len(args))
            if place < len(args):
                args[place] = value
            elif name in self.places and self._positional[place].kind is inspect.Parameter.POSITIONAL_ONLY:
                args += [*(p.default for p in self._positional[len(args) : place]), value]
            else:
                kwargs[name] = value
        return args, kwargs

    def to_json(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
        """Returns both as JSON text. Raises NotStorableError, which names the one argument that cannot be stored."""
        try:
            what = self._an_argument
            texts = to_json(list(args), what), to_json(dict(kwargs), what) if kwargs else "{}"
        except NotStorableError:
            names = [p.name for p in self.signature.parameters.values() if p.kind in POSITIONAL]
            names += [f"args[{place}]" for place in range(len(names), len(args))]
            for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
                to_json([value], f"Argument {name!r} of {self.name}()")  # a list: as deep as it stood above
            raise
        refuse_long(texts, f"What is passed to {self.name}()")
        return texts


def refuse_long(texts: tuple[str, str], what: str) -> None:
    """Raises NotStorableError for arguments that PostgreSQL would refuse."""
    if (length := len(texts[0]) + len(texts[1])) > LENGTH_LIMIT:
        reason = f"it has {length:,} characters, more than {LENGTH_LIMIT:,}; keep it in your own row or file"
        raise NotStorableError(what, reason)


def texts_of(
    all_args: Sequence[Sequence[Any]], all_kwargs: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str] | None]:
    """Returns what CallSignature.to_json() makes of many calls, encoded together; None for calls that it has to see."""
    kwargs: Iterable[str | None] = repeat("{}", len(all_kwargs))
    if any(all_kwargs):
        # As one call does: the items() of a QueryDict, which JSON would take, have the last value of each list only.
        kwargs = many_to_json([named if type(named) is dict else dict(named) for named in all_kwargs])
    return [
        (args, named) if args and named and len(args) + len(named) <= LENGTH_LIMIT else None
        for args, named in zip(many_to_json(all_args), kwargs, strict=True)
    ]


call_signature = cache(CallSignature)
