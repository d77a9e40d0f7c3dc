"""docs/reference/neighbours.md: each row has its test, each test its row, and the versions are those tested."""

from __future__ import annotations

import re
import tomllib

from tests.docs.pages import ROOT

TEXT = (ROOT / "docs" / "reference" / "neighbours.md").read_text()
ROWS = re.findall(r"^\| ([\w.-]+) \| ([\d.]+) \| (.+) \| `([\w/.]+)` \|$", TEXT, re.MULTILINE)
TESTS = ROOT / "tests" / "neighbours"
PINS = dict(
    re.findall(r"^([\w-]+)(?:\[\w+\])?==(.+)$", (TESTS / "requirements.txt").read_text(), re.MULTILINE)
)


def test_each_row_has_its_test_and_each_test_its_row():
    named = [test for *_, test in ROWS]
    assert [test for test in named if not (ROOT / test).exists()] == []
    assert {f"tests/neighbours/{file.name}" for file in TESTS.glob("test_*.py")} <= set(named)


def test_each_version_is_the_one_that_is_installed():
    """Those without a test in tests/neighbours are extras of this package, whose oldest version is given there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    oldest = dict(re.findall(r"([\w-]+)>=([\d.]+)", "\n".join(extras)))
    pins = {**oldest, **PINS, "allauth.usersessions": PINS["django-allauth"]}
    assert {name: version for name, version, *_ in ROWS} == {name: pins[name] for name, *_ in ROWS}
    assert PINS.keys() <= {name for name, *_ in ROWS}
