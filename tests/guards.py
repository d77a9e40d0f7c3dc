"""How a guard of the repository fails: a line for each thing that is wrong, and then what to edit."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def refuse(found: Iterable[object], remedy: str) -> None:
    """Fails where something was found. `remedy` says which file to edit, and how. No traceback: the reader needs the
    place of the mistake, not that of the guard."""
    if lines := list(map(str, found)):
        pytest.fail("\n".join([*lines, *textwrap.wrap(remedy, 110)]), pytrace=False)


def place(path: Path, line: int | None = None) -> str:
    """`pgonly_django/conf.py:12`, as editors open it."""
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
    return name if line is None else f"{name}:{line}"


def line_of(text: str, part: str) -> int:
    """The line where `part` first stands."""
    return text.count("\n", 0, text.index(part)) + 1
