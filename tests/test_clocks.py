"""The database's clock decides, since the clocks of machines differ: what is compared with a column of a table, or
written into one, comes from clock_timestamp(). So the rooms that read and write rows may not ask the machine."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.guards import ROOT, place, refuse

PACKAGE = ROOT / "pgonly_django"
ROOMS = ("cache", "context", "limits", "models", "queue", "scheduling", "sessions", "tasks", "worker")
CLOCKS = {
    ("timezone", "now"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"),
    ("time", "time"), ("timezone", "localtime"), ("timezone", "localdate"),
}  # fmt: skip
DECLARER = "When this process has started; the database takes its own time where that is earlier."
# The functions that ask the machine all the same, with the reason why no row of ours is compared with it.
REVIEWED = {
    ("models/declared.py", ""): DECLARER,
    ("limits/declared_rows.py", "declare"): DECLARER,
    ("models/job.py", "run_seconds"): "For people: how long a job runs already.",
    ("scheduling/timing.py", "__init__"): "Any time does to see whether a cron line is right.",
    ("scheduling/timing.py", "is_empty"): "Whether a cron line has a tick at all, within decades.",
    ("scheduling/timing.py", "words"): "Any time does to say a cron line in words.",
    ("worker/job_log.py", "send"): "Of a line of the log, as of all others there.",
    ("sessions/store.py", "get_expiry_age"): "Django's own: from now on, unless the caller says from when.",
    ("sessions/store.py", "get_expiry_date"): "Django's own: from now on, unless the caller says from when.",
    (
        "sessions/previous_engine.py",
        "_stored_sessions",
    ): "Rows of Django's own engine, which compares them so.",
    ("sessions/previous_engine.py", "_until"): "Rows of Django's own engine, which compares them so.",
    ("sessions/previous_engine.py", "_seconds_left"): "Rows of Django's own engine, which compares them so.",
    ("worker/sleep.py", "_let_go"): "When this process wakes up, on a machine that was suspended.",
    ("worker/sleep.py", "goes_on"): "When this process wakes up, on a machine that was suspended.",
}


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """The functions in which a machine's clock is read, and the lines."""
    tree = ast.parse(path.read_text())
    names = dict.fromkeys(ast.walk(tree), "")
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            names |= dict.fromkeys(ast.walk(function), function.name)
    for node in ast.walk(tree):
        is_attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if is_attribute and (node.value.id, node.attr) in CLOCKS:
            yield names[node], node.lineno


def found() -> dict[tuple[str, str], str]:
    files = (path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py")))
    return {
        (path.relative_to(PACKAGE).as_posix(), name): place(path, line)
        for path in files
        for name, line in calls(path)
    }


def test_rows_are_compared_with_the_clock_of_the_database():
    refuse(
        (
            f"{where} asks the machine for the time"
            for which, where in found().items()
            if which not in REVIEWED
        ),
        "Take clock_timestamp() in SQL, or ClockTimestamp() of pgonly_django/models/job.py. What is compared with "
        "no column goes into REVIEWED of tests/test_clocks.py, with its reason.",
    )


def test_what_was_reviewed_asks_the_machine():
    refuse(
        (f"{file}: {name}() does not" for file, name in sorted(set(REVIEWED) - set(found()))),
        "Take the entry out of REVIEWED in tests/test_clocks.py.",
    )
