"""A job's arguments and results with the secrets masked: those whose names match PGONLY["MASKED_ARGUMENTS"]."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from inspect import Parameter
from typing import Any

from pgonly_django.conf import settings
from pgonly_django.masking import MASK, is_secret, masked
from pgonly_django.models.readable import OddValue, odd_values
from pgonly_django.queue.values import NESTING_LIMIT
from pgonly_django.tasks.arguments import POSITIONAL, CallSignature, call_signature
from pgonly_django.tasks.registry import UnknownTaskError, import_task

STRINGS = re.compile(r'"((?:[^"\\]|\\.)*)"')  # of JSON: names and texts


class JobMask:
    """The mask of one request: it finds each task once, and reads the settings once."""

    def __init__(self) -> None:
        self._patterns = settings().masked_arguments
        self._signatures: dict[str, CallSignature | None] = {}

    def args(self, task: str, args: Any) -> Any:
        """Masks positional arguments, which have the names of the parameters of the task at this path. A value that has
        no name, since the task is not known here or takes fewer, is masked."""
        if isinstance(args, OddValue):
            return OddValue(MASK) if self._may_be_secret(task) else self.value(args)
        if not isinstance(args, list) or not self._patterns:
            return self.value(args)
        names = self._names(task, len(args))
        return [
            MASK if name is None or is_secret(name, self._patterns) else self.value(value)
            for name, value in zip(names, args, strict=True)
        ]

    def value(self, value: Any) -> Any:
        """Masks a result, keyword arguments or a checkpoint; all of an OddValue that has a name to be masked in it."""
        if isinstance(value, OddValue):
            return OddValue(MASK) if any(map(self.hides, STRINGS.findall(value))) else value
        return masked(value, self._patterns, NESTING_LIMIT) if self._patterns else value

    def odd(self, job: Any) -> dict[str, OddValue]:
        """Returns the columns of the job that cannot be read. Annotations with an excerpt are named "small_args"."""
        found = {name.removeprefix("small_"): value for name, value in odd_values(job).items()}
        return {
            name: self.args(job.task, value) if name == "args" else self.value(value)
            for name, value in found.items()
        }

    def hides(self, name: str) -> bool:
        """Returns whether all that has this name is masked, as the result of a step."""
        return is_secret(name, self._patterns)

    def hides_of(self, task: str, args: Any, kwargs: Any) -> bool:
        """Returns whether a part of a call's arguments is masked: that part may stand in a key made of them."""
        return bool(self.args(task, args) != args or self.value(kwargs) != kwargs)

    def _may_be_secret(self, task: str) -> bool:
        """Returns whether something that is masked may stand in positional arguments that cannot be read."""
        if not self._patterns:
            return False
        signature = self._signature(task)
        return signature is None or any(map(self.hides, signature.signature.parameters))

    def _names(self, task: str, count: int) -> Sequence[str | None]:
        """Returns the name of each positional argument; None where it has none."""
        signature = self._signature(task)
        if signature is None:
            return [None] * count
        parameters = signature.signature.parameters.values()
        names: list[str | None] = [each.name for each in parameters if each.kind in POSITIONAL]
        rest = next((each.name for each in parameters if each.kind is Parameter.VAR_POSITIONAL), None)
        return [*names, *[rest] * count][:count]

    def _signature(self, path: str) -> CallSignature | None:
        if path not in self._signatures:
            self._signatures[path] = None
            with suppress(UnknownTaskError, ValueError):  # of a callable that has no signature
                task = import_task(path)
                self._signatures[path] = call_signature(task.func, task.takes_context)
        return self._signatures[path]
