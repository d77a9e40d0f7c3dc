"""docs/reference/neighbours.md: each row has its test, each test its row, and the versions are those tested."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.docs.pages import ROOT
from tests.guards import refuse

pytestmark = pytest.mark.slow

TEXT = (ROOT / "docs" / "reference" / "neighbours.md").read_text()
ROWS = re.findall(r"^\| ([\w.-]+) \| ([\d.]+) \| (.+) \| `([\w/.]+)` \|$", TEXT, re.MULTILINE)
TESTS = ROOT / "tests" / "neighbours"
PINS = dict(
    re.findall(r"^([\w-]+)(?:\[\w+\])?==(.+)$", (TESTS / "requirements.txt").read_text(), re.MULTILINE)
)


def test_each_row_has_its_test_and_each_test_its_row():
    named = {test for *_, test in ROWS}
    tests = {f"tests/neighbours/{file.name}" for file in TESTS.glob("test_*.py")}
    refuse(
        [
            *(f"{test}, which a row names, does not exist" for test in named if not (ROOT / test).exists()),
            *(f"{test} has no row" for test in sorted(tests - named)),
        ],
        "Correct docs/reference/neighbours.md: | package | version | what to know | `tests/neighbours/test_...py` |.",
    )


def test_each_version_is_the_one_that_is_installed():
    """Those without a test in tests/neighbours are extras of this package, whose oldest version is given there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    oldest = dict(re.findall(r"([\w-]+)>=([\d.]+)", "\n".join(extras)))
    pins = {**oldest, **PINS, "allauth.usersessions": PINS["django-allauth"]}
    listed = {name: version for name, version, *_ in ROWS}
    refuse(
        [
            *(
                f"{name}: the page has {version}, installed is {pins.get(name, 'none')}"
                for name, version in listed.items()
                if version != pins.get(name)
            ),
            *(f"{name} {version} has no row" for name, version in PINS.items() if name not in listed),
        ],
        "docs/reference/neighbours.md has the versions of tests/neighbours/requirements.txt, and of an extra that has "
        "no test there the oldest version of `dev` in pyproject.toml. Make them the same.",
    )
