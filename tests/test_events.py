from __future__ import annotations

import ast
import logging
import re
from pathlib import Path

from pgonly_django import events

ROOT = Path(events.__file__).parents[1]


def emitted(path: Path):
    """The names that a module emits."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("emit", "events.emit"):
            yield ast.literal_eval(node.args[0])


def test_the_docs_list_every_event_that_happens_and_no_other():
    found = {name for path in (ROOT / "pgonly_django").rglob("*.py") for name in emitted(path)}
    _, table = (ROOT / "docs" / "reference" / "events.md").read_text().split("|---|---|\n")
    listed = [re.fullmatch(r"\| `([\w.]+)` \| \S.* \|", line)[1] for line in table.splitlines()]
    assert sorted(found) == sorted(listed)


def test_an_event_is_logged_with_its_facts_and_told_to_subscribers(caplog):
    heard = []
    unsubscribe = events.subscribe(lambda name, facts: heard.append((name, facts)))
    with caplog.at_level(logging.INFO, "pgonly_django"):
        events.emit("worker.started", "A worker started.", threads=3)
    unsubscribe()
    events.emit("worker.started", "Another one.", threads=4)
    assert heard == [("worker.started", {"threads": 3})]
    assert caplog.records[0].name == "pgonly_django.worker"
    assert caplog.records[0].threads == 3


def test_a_listener_that_raises_stops_no_other(caplog):
    def broken(name, facts):
        raise ValueError("broken")

    unsubscribe = events.subscribe(broken)
    events.emit("worker.started", "A worker started.")
    unsubscribe()
    assert "broken" in caplog.text
