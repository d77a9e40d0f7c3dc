from __future__ import annotations

import ast
import logging
import re
from pathlib import Path

from pgonly_django import events
from tests.guards import ROOT, place, refuse


def emitted(path: Path):
    """The names that a module emits, with their places."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("emit", "events.emit"):
            yield ast.literal_eval(node.args[0]), place(path, node.lineno)


def test_the_docs_list_every_event_that_happens_and_no_other():
    found = dict(each for path in (ROOT / "pgonly_django").rglob("*.py") for each in emitted(path))
    _, table = (ROOT / "docs" / "reference" / "events.md").read_text().split("|---|---|\n")
    rows = {line: re.fullmatch(r"\| `([\w.]+)` \| \S.* \|", line) for line in table.splitlines()}
    listed = [row[1] for row in rows.values() if row]
    refuse(
        [
            *(
                f"docs/reference/events.md: no row of an event: {line}"
                for line, row in rows.items()
                if not row
            ),
            *(
                f"{where} emits {name}, which has no row"
                for name, where in found.items()
                if name not in listed
            ),
            *(f"docs/reference/events.md: nothing emits {name}" for name in listed if name not in found),
            *(
                f"docs/reference/events.md: {name} has two rows"
                for name in set(listed)
                if listed.count(name) > 1
            ),
        ],
        "Correct the table in docs/reference/events.md: | `worker.started` | it happens when ... |.",
    )


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
