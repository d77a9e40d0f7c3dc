"""Which tests a run takes."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
SLOW_AS_A_WHOLE = re.compile(r"^pytestmark = (?:\[[^]]*|.*)\bmark\.slow\b", re.MULTILINE)


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
