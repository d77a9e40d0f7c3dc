"""The lanes of a test run share one server, and each has a database of its own on it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.guards import place, refuse

TESTS = Path(__file__).resolve().parent
# These views show what goes on in all databases of the server.
OF_ALL_DATABASES = re.compile(
    r"\b(?:FROM|JOIN)\s+(?:pg_catalog\.)?(?:pg_stat_activity|pg_locks|pg_prepared_xacts|pg_stat_progress_\w+)"
)
# A worker's id, a process of the server, or what this test alone is called: each of them is in one database.
IN_ONE_DATABASE = re.compile(
    r"current_database\(\)|datname = |\bpid = |pg_blocking_pids|strpos\(application_name|application_name = %s"
)
ON_SERVERS_OF_THEIR_OWN = {
    "cache/test_servers.py",
    "cache/failure/test_outages.py",
    "cache/failure/test_paid_answers.py",
    "monitoring/doctor/test_examination.py",
    "outages.py",
    "process/test_locks.py",
}


def statements(path):
    """The texts of a file, each with its line; of an f-string what stands in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    formatted = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    parts = [[part for part in node.values if isinstance(part, ast.Constant)] for node in formatted]
    for node, each in zip(formatted, parts, strict=True):
        yield node.lineno, "".join(str(part.value) for part in each)
    of_formatted = {id(part) for each in parts for part in each}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in of_formatted:
            yield node.lineno, node.value


def test_no_test_looks_at_the_sessions_of_another_lane():
    """One froze the workers of all lanes, and their tests failed."""
    refuse(
        [
            f"{place(path, line)}: {found.group()}"
            for path in sorted(TESTS.rglob("*.py"))
            if path.relative_to(TESTS).as_posix() not in ON_SERVERS_OF_THEIR_OWN
            for line, text in statements(path)
            if (found := OF_ALL_DATABASES.search(text)) and not IN_ONE_DATABASE.search(text)
        ],
        "The view shows the databases of all lanes. Add `datname = current_database()` to the statement; if the test "
        "starts a server of its own, name its file in ON_SERVERS_OF_THEIR_OWN of tests/test_lanes.py.",
    )
