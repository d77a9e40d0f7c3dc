"""reference/exceptions.md"""

from __future__ import annotations

from collections.abc import Iterator

import pgonly_django
from docs.generate.markdown import in_one_line, table
from pgonly_django import exceptions

TEXT = """
# Exceptions

The exceptions of `pgonly_django.exceptions`. You can import those of the first two tables from
`pgonly_django` too. Each message says what is wrong, with what value, and what to do; its facts are
attributes of the exception.

## What a task raises to end its run

{instructions}

## What is raised inside a task to end its run

They do not inherit from `Exception`, so `except Exception` does not catch them. Clean up in
`finally`, and do not swallow them.

{interrupts}

## Errors

A class that is also another one, such as a `ValueError`, can be caught as that.

{errors}
"""


def page() -> str:
    known = [
        each
        for each in vars(exceptions).values()
        if isinstance(each, type)
        and issubclass(each, BaseException)
        and each.__module__ == exceptions.__name__
    ]
    interrupts = [each for each in known if issubclass(each, exceptions.JobInterrupt)]
    instructions = [
        each for each in known if each.__name__ in pgonly_django.__all__ and each not in interrupts
    ]
    errors = [each for each in known if each not in interrupts and each not in instructions]
    return TEXT.strip().format(
        instructions=table(["exception", ""], rows(instructions)),
        interrupts=table(["exception", ""], rows(interrupts)),
        errors=table(["exception", "is also", ""], with_bases(errors)),
    )


def rows(classes: list[type]) -> Iterator[tuple[str, str]]:
    return ((f"`{each.__name__}`", in_one_line(each)) for each in classes)


def with_bases(classes: list[type]) -> Iterator[tuple[str, str, str]]:
    for each, (name, says) in zip(classes, rows(classes), strict=True):
        yield name, ", ".join(f"`{base.__name__}`" for base in each.__bases__), says
