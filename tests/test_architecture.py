"""ARCHITECTURE.md names files, rooms, tables, functions and promises. All of them exist, and none is missing there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from django.apps import apps

from pgonly_django.tables import name_of

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pgonly_django"
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
PATH = re.compile(r"`([\w./-]+(?:/|\.(?:py|md|toml)))`")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = [
    file for folder in ("pgonly_django", "tests", "example_project") for file in (ROOT / folder).rglob("*.py")
]


def located(path: str) -> Path | None:
    return next((place / path for place in (ROOT, PACKAGE) if (place / path).exists()), None)


def rows(section: str) -> list[list[str]]:
    """The cells of each row of the section's table, without its header."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_file_that_is_named_exists():
    assert [path for path in PATH.findall(TEXT) if located(path) is None] == []


def test_every_name_in_a_step_or_row_occurs_in_a_file_of_it():
    steps = re.split(r"^\d+\. |^$", SECTIONS["Paths through the code"], flags=re.MULTILINE)
    tables = [row for title in ("When you change a column", "When you add something") for row in rows(title)]
    missing = []
    for part in [*steps, *map(" | ".join, tables)]:
        files = [path for path in map(located, PATH.findall(part)) if path is not None and path.is_file()]
        text = "".join(map(Path.read_text, files))
        names = re.findall(r"`(\w+)(?:\(\))?`", part) if files else []
        missing += [name for name in names if not re.search(rf"\b{name}\b", text)]
    assert missing == []


def test_the_rooms_are_those_of_the_import_contract_in_its_order():
    contract, *_ = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [re.findall(r"pgonly_django\.(\w+)", layer) for layer in contract["layers"]]
    named = [[re.sub(r"/|\.py", "", name) for name in names_in(room)] for room, _ in rows("The rooms")]
    assert named == layers


def test_every_part_of_the_package_is_named():
    parts = {
        file.name + "/" * file.is_dir() for file in PACKAGE.iterdir() if not file.name.startswith(("_", "."))
    }
    assert parts - {"py.typed"} - set(names_in(SECTIONS["The rooms"])) == set()


def test_every_folder_of_tests_is_named():
    folders = {f"tests/{file.parent.name}/" for file in (ROOT / "tests").glob("*/test_*.py")}
    assert folders - set(names_in(SECTIONS["Where tests go"])) == set()


def test_every_table_says_what_a_new_column_changes():
    tables = {name_of(model._meta.db_table) for model in apps.get_app_config("pgonly_django").get_models()}
    assert {name for row in rows("When you change a column") for name in names_in(row[0])} == tables


def test_every_promise_is_numbered_and_has_tests():
    promises = rows("The promises")
    assert [int(number) for number, _, _ in promises] == list(range(1, len(promises) + 1))
    assert all(PATH.findall(tests) for _, _, tests in promises)


def test_every_promise_that_the_code_cites_has_its_entry():
    cited = {number for file in CODE for number in re.findall(r"[Pp]romise (\d+)", file.read_text())}
    assert cited
    assert cited <= {number for number, _, _ in rows("The promises")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_at_most_100_characters_wide(page):
    """Tables and shell commands cannot be wrapped."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 100 and not line.startswith("|")] == []
