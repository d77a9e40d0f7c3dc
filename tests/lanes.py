"""Which test files a run takes, and how its lanes share the work of importing them."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
UNDER_OWN_SETTINGS = "neighbours"  # which the tests' settings cannot import


@cache
def all_files() -> list[Path]:
    return sorted(TESTS.rglob("test_*.py"))


def is_in_part(part: str | None, path: Path) -> bool:
    """Whether `--part k/n` takes this file. Whole files, so that a part imports and sets up only what it tests."""
    if part is None or path not in all_files():
        return True
    wanted, parts = map(int, part.split("/"))
    return all_files().index(path) % parts == wanted % parts


def import_in_turns(config) -> None:
    """Import the test modules before they are collected, each lane from another place in the list on. pytest compiles
    each module once more for its asserts, which takes 5 s of CPU in all: each lane compiles its share, and reads the
    rest."""
    if not hasattr(config, "workerinput") or config.args_source is not config.ArgsSource.TESTPATHS:
        return
    part = config.getoption("--part")
    files = [
        path for path in all_files() if is_in_part(part, path) and path.parent.name != UNDER_OWN_SETTINGS
    ]
    lane = int(config.workerinput["workerid"].removeprefix("gw"))
    first = len(files) * lane // config.workerinput["workercount"]
    for path in files[first:] + files[:first]:
        name = ".".join(path.relative_to(TESTS.parent).with_suffix("").parts)
        with suppress(
            Exception, pytest.skip.Exception
        ):  # the collection meets the error again, and reports it
            import_module(name)
