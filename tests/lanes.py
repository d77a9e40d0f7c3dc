"""Which tests a run takes, and how its lanes share the work of importing them."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
SLOW_AS_A_WHOLE = re.compile(r"^pytestmark = (?:\[[^]]*|.*)\bmark\.slow\b", re.MULTILINE)
UNDER_OWN_SETTINGS = "neighbours"  # which the tests' settings cannot import


@cache
def all_files() -> list[Path]:
    return sorted(TESTS.rglob("test_*.py"))


def leaves_out_slow(config) -> bool:
    """Without --all the tests that are marked slow are left out, except in files and folders that the command line
    names, and where -m chooses."""
    asks = config.getoption("--all") or config.getoption("-m")
    return not asks and config.args_source is not config.ArgsSource.ARGS


def of_the_first_ring(items: list[Any]) -> tuple[list[Any], list[Any]]:
    """The tests that run without --all, and the others: those marked slow, and of a test with `sample(n)` all but n of
    its parameter sets."""
    taken, left_out = [], []
    of_samples: Counter[str] = Counter()
    for item in items:
        sample = item.get_closest_marker("sample")
        if sample is not None:
            of_samples[name := item.nodeid.partition("[")[0]] += 1
        is_slow = item.get_closest_marker("slow") or (
            sample is not None and of_samples[name] > sample.args[0]
        )
        (left_out if is_slow else taken).append(item)
    return taken, left_out


def is_slow_as_a_whole(path: Path) -> bool:
    return path in all_files() and SLOW_AS_A_WHOLE.search(path.read_text()) is not None


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
        path
        for path in all_files()
        if is_in_part(part, path)
        and path.parent.name != UNDER_OWN_SETTINGS
        and not (leaves_out_slow(config) and is_slow_as_a_whole(path))
    ]
    lane = int(config.workerinput["workerid"].removeprefix("gw"))
    first = len(files) * lane // config.workerinput["workercount"]
    for path in files[first:] + files[:first]:
        name = ".".join(path.relative_to(TESTS.parent).with_suffix("").parts)
        with suppress(
            Exception, pytest.skip.Exception
        ):  # the collection meets the error again, and reports it
            import_module(name)
