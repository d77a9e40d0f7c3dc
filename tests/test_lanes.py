"""The lanes of a test run share one server, and each has a database of its own on it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

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
    "cache/failure/test_outages.py",
    "cache/failure/test_paid_answers.py",
    "cache/test_servers.py",
    "monitoring/doctor/test_examination.py",
    "outages.py",
    "process/test_locks.py",
}


def statements(path):
    """The texts of a file; of an f-string what stands in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    formatted = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    parts = [[part for part in node.values if isinstance(part, ast.Constant)] for node in formatted]
    yield from ("".join(str(part.value) for part in each) for each in parts)
    of_formatted = {id(part) for each in parts for part in each}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in of_formatted:
            yield node.value


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in TESTS.rglob("*.py")}), ids=lambda path: path.name
)
def test_no_test_looks_at_the_sessions_of_another_lane(folder):
    """One froze the workers of all lanes, and their tests failed."""
    found = {
        path.relative_to(TESTS).as_posix()
        for path in folder.glob("*.py")
        for text in statements(path)
        if OF_ALL_DATABASES.search(text) and not IN_ONE_DATABASE.search(text)
    }
    assert found <= ON_SERVERS_OF_THEIR_OWN
