"""Does a call fit the function? Answered when it is enqueued, not two hours later in a worker."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pgonly_django.exceptions import NotStorableError, WrongArgumentsError
from pgonly_django.queue.values import to_json

# PostgreSQL parses at most 2**24 elements ("1," each) into JSONB, of at most 256 MB; its refusal would abort the
# caller's transaction.
LENGTH_LIMIT = 32_000_000
TOO_LONG = f"it has {{:,}} characters, more than {LENGTH_LIMIT:,}; keep it in a row or file of your own"


@dataclass(frozen=True, slots=True)
class CallShape:
    """The signature of a task function without its context, with the counts that most calls are judged by."""

    name: str
    signature: inspect.Signature
    least: int
    most: float
    plain: bool  # no required keyword-only parameter: the count of positional arguments decides

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raises WrongArgumentsError with Python's own words for what is missing or too much."""
        if self.plain and not kwargs and self.least <= len(args) <= self.most:
            return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise WrongArgumentsError(f"{self.name}{self.signature}", str(error)) from error

    def argument_name(self, place: int) -> str:
        """The parameter that positional argument `place` goes to, for messages."""
        names = [
            parameter.name
            for parameter in self.signature.parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        return names[place] if place < len(names) else f"args[{place}]"


@cache
def call_shape(function: Callable[..., Any], takes_context: bool) -> CallShape:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1 if takes_context else 0 :]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return CallShape(
        name=function.__qualname__,
        signature=signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty),
        least=sum(p.default is p.empty for p in positional),
        most=float("inf") if takes_any else len(positional),
        plain=not any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters),
    )


def arguments_to_json(shape: CallShape, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
    """Both as JSON text. Raises NotStorableError naming the one argument that cannot be stored."""
    try:
        what = f"An argument of {shape.name}()"
        texts = to_json(list(args), what), to_json(dict(kwargs), what) if kwargs else "{}"
    except NotStorableError:
        # Each inside a list, as deep as it stood among the others.
        for place, value in enumerate(args):
            to_json([value], f"Argument {shape.argument_name(place)!r} of {shape.name}()")
        for name, value in kwargs.items():
            to_json([value], f"Argument {name!r} of {shape.name}()")
        raise
    if (length := len(texts[0]) + len(texts[1])) > LENGTH_LIMIT:
        raise NotStorableError(f"What is passed to {shape.name}()", TOO_LONG.format(length))
    return texts
