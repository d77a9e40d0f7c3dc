"""How the lanes of one run share the work of importing its tests."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

import pytest

from tests.chosen import TESTS, all_files, is_in_part, is_slow_as_a_whole, leaves_out_slow

UNDER_OWN_SETTINGS = "neighbours"  # which the tests' settings cannot import


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
