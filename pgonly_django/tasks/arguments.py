"""Whether the arguments of a call fit the function and JSON. enqueue() finds out, not a worker two hours later."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pgonly_django.exceptions import NotStorableError, WrongArgumentsError
from pgonly_django.queue.values import to_json

# PostgreSQL parses at most 2**24 elements ("1," each) into JSONB, of at most 256 MB. It would refuse more, and the
# caller's transaction would be lost.
LENGTH_LIMIT = 32_000_000
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class CallSignature:
    """The signature of a task function without its context. Most calls are judged by counting their arguments."""

    name: str
    signature: inspect.Signature
    least: int  # positional arguments
    most: float
    count_decides: bool  # there is no required keyword-only parameter

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raises WrongArgumentsError with Python's own words for what is missing or too much."""
        if self.count_decides and not kwargs and self.least <= len(args) <= self.most:
            return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise WrongArgumentsError(f"{self.name}{self.signature}", str(error)) from error

    def to_json(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
        """Both as JSON text. Raises NotStorableError naming the one argument that cannot be stored."""
        try:
            what = f"An argument of {self.name}()"
            texts = to_json(list(args), what), to_json(dict(kwargs), what) if kwargs else "{}"
        except NotStorableError:
            names = [p.name for p in self.signature.parameters.values() if p.kind in POSITIONAL]
            names += [f"args[{place}]" for place in range(len(names), len(args))]
            for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
                to_json([value], f"Argument {name!r} of {self.name}()")  # a list: as deep as it stood above
            raise
        if (length := len(texts[0]) + len(texts[1])) > LENGTH_LIMIT:
            reason = f"it has {length:,} characters, more than {LENGTH_LIMIT:,}; keep it in a row or file of your own"
            raise NotStorableError(f"What is passed to {self.name}()", reason)
        return texts


@cache
def call_signature(function: Callable[..., Any], takes_context: bool) -> CallSignature:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1 if takes_context else 0 :]
    positional = [p for p in parameters if p.kind in POSITIONAL]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return CallSignature(
        name=function.__qualname__,
        signature=signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty),
        least=sum(p.default is p.empty for p in positional),
        most=float("inf") if takes_any else len(positional),
        count_decides=not any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters),
    )
