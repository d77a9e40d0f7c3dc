"""ARCHITECTURE.md names files, rooms, tables, functions and promises. All of them exist, and none is missing there."""

from __future__ import annotations

import re
import tomllib
from itertools import zip_longest
from pathlib import Path

from django.apps import apps

from pgonly_django.tables import name_of
from tests.guards import ROOT, line_of, place, refuse

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


def at(part: str) -> str:
    """Where ARCHITECTURE.md has it."""
    return f"ARCHITECTURE.md:{line_of(TEXT, part)}"


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_file_that_is_named_exists():
    refuse(
        [
            f"{at(f'`{path}`')}: {path} does not exist"
            for path in dict.fromkeys(PATH.findall(TEXT))
            if located(path) is None
        ],
        "Write in ARCHITECTURE.md where that code is now. Paths begin in pgonly_django/, or with the name of another "
        "folder of the repository.",
    )


def test_every_name_in_a_step_or_row_occurs_in_a_file_of_it():
    steps = re.split(r"^\d+\. |^$", SECTIONS["Paths through the code"], flags=re.MULTILINE)
    tables = [row for title in ("When you change a column", "When you add something") for row in rows(title)]
    missing = []
    for part in [*steps, *map(" | ".join, tables)]:
        files = [path for path in map(located, PATH.findall(part)) if path is not None and path.is_file()]
        text = "".join(map(Path.read_text, files))
        names = re.findall(r"`(\w+)(?:\(\))?`", part) if files else []
        absent = [name for name in names if not re.search(rf"\b{name}\b", text)]
        places = ", ".join(place(file) for file in files)
        missing += [f"{at(part)}: `{name}` is in none of {places}" for name in absent]
    refuse(
        missing,
        "Correct the name in ARCHITECTURE.md, or name the file that has it in the same step or row.",
    )


def test_the_rooms_are_those_of_the_import_contract_in_its_order():
    contract, *_ = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [re.findall(r"pgonly_django\.(\w+)", layer) for layer in contract["layers"]]
    named = [[re.sub(r"/|\.py", "", name) for name in names_in(room)] for room, _ in rows("The rooms")]
    pairs = zip_longest(map(" : ".join, layers), map(" : ".join, named), fillvalue="nothing")
    refuse(
        [
            f"pyproject.toml has {layer} where ARCHITECTURE.md has {row}"
            for layer, row in pairs
            if layer != row
        ],
        "Make the rows of ARCHITECTURE.md, The rooms, and `layers` in pyproject.toml the same, the highest room first.",
    )


def test_every_part_of_the_package_is_named():
    files = [
        path.relative_to(PACKAGE).parts for path in PACKAGE.rglob("*.*")
    ]  # folders that git has emptied stay
    of_ours = [parts for parts in files if "__pycache__" not in parts and parts[0][0] not in "_."]
    parts = {parts[0] + "/" * (len(parts) > 1) for parts in of_ours}
    missing = parts - {"py.typed"} - set(names_in(SECTIONS["The rooms"]))
    refuse(
        [f"pgonly_django/{name} is not in ARCHITECTURE.md, The rooms" for name in sorted(missing)],
        "Say in that table what it holds, and put it into `layers` in pyproject.toml, or move it into a room.",
    )


def test_every_folder_of_tests_is_named():
    folders = {f"tests/{file.parent.name}/" for file in (ROOT / "tests").glob("*/test_*.py")}
    missing = folders - set(names_in(SECTIONS["Where tests go"]))
    refuse(
        [f"{name} is not in ARCHITECTURE.md, Where tests go" for name in sorted(missing)],
        "Say in that table what its tests are for, or move them into a folder that is there.",
    )


def test_every_table_says_what_a_new_column_changes():
    tables = {name_of(model._meta.db_table) for model in apps.get_app_config("pgonly_django").get_models()}
    named = {name for row in rows("When you change a column") for name in names_in(row[0])}
    refuse(
        [
            *(f"The table {name} has no row in ARCHITECTURE.md" for name in sorted(tables - named)),
            *(f"{at(f'`{name}`')}: no model has the table {name}" for name in sorted(named - tables)),
        ],
        "Correct ARCHITECTURE.md, When you change a column: a row says which statements a new column changes.",
    )


def test_every_promise_is_numbered_and_has_tests():
    promises = rows("The promises")
    refuse(
        [
            *(
                f"{at(f'| {number} |')}: the promise {number} stands at the place {place}"
                for place, (number, _, _) in enumerate(promises, 1)
                if number != str(place)
            ),
            *(
                f"{at(f'| {number} |')}: the promise {number} names no file of tests"
                for number, _, tests in promises
                if not PATH.findall(tests)
            ),
        ],
        "Correct ARCHITECTURE.md, The promises: numbers run from 1 on, since comments cite them, and each has tests.",
    )


def test_every_promise_that_the_code_cites_has_its_entry():
    promised = {number for number, _, _ in rows("The promises")}
    cited = [
        (found[1], f"{place(file, line)} cites the promise {found[1]}")
        for file in CODE
        for line, text in enumerate(file.read_text().splitlines(), 1)
        for found in re.finditer(r"[Pp]romise (\d+)", text)
    ]
    assert cited
    refuse(
        [where for number, where in cited if number not in promised],
        "ARCHITECTURE.md, The promises, has no such number: correct the comment, or add the promise and its tests.",
    )


def blank_lines(block: re.Match[str]) -> str:
    return "\n" * block.group().count("\n")


def test_prose_is_at_most_100_characters_wide():
    """Tables and shell commands cannot be wrapped."""
    wide = []
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", blank_lines, page.read_text(), flags=re.MULTILINE | re.DOTALL)
        wide += [
            f"{place(page, number)} has {len(line)} characters"
            for number, line in enumerate(prose.splitlines(), 1)
            if len(line) > 100 and not line.startswith("|")
        ]
    refuse(wide, "Break these lines of prose at 100 characters.")
