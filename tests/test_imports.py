"""Imports go one way: from a room to those below it, and in no circle. To understand or change one file of a circle, a
reader needs all of them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.guards import ROOT, place, refuse

PACKAGES = ("pgonly_django", "example_project")
LINT_IMPORTS = (
    "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
)

Places = Mapping[tuple[str, str], list[str]]  # by who imports and what: "pgonly_django/conf.py:12", ...


def modules(root: Path) -> dict[str, Path]:
    """The modules of both packages by name."""
    files = [file for package in PACKAGES for file in (root / package).rglob("*.py")]
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def imports_of(file: Path) -> Iterator[tuple[int, str]]:
    """The line and every name that the file imports, anywhere in it: at its top, inside functions, for type
    checking."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = f"{place(file, node.lineno)}: a relative import"
            refuse(
                [relative] * bool(node.level), "Write the whole path: from pgonly_django.worker import slots"
            )
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imports(root: Path) -> Places:
    known = modules(root)
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for module, file in known.items():
        for line, name in imports_of(file):
            target = name if name in known else name.rpartition(".")[0]  # a name in a module stands for it
            if target in known and target != module:
                found[module, target].append(f"{place(file, line)} imports {target}")
    return {pair: list(dict.fromkeys(places)) for pair, places in found.items()}  # a line with two names once


def circle_in(edges: Places) -> list[str]:
    """What is imported where along a short circle; empty where there is none."""
    targets: dict[str, set[str]] = defaultdict(set)
    for importer, target in edges:
        targets[importer].add(target)
    try:
        TopologicalSorter(targets).prepare()
    except CycleError as error:
        circle = min((way_back(targets, node) for node in error.args[1]), key=len)
        # Of many imports between two of them, two say enough.
        return [each for pair in pairwise(circle) for each in edges[pair][:2]]
    return []


def way_back(targets: Mapping[str, set[str]], start: str) -> list[str]:
    """The shortest circle from `start`, which is in one: the one that a new import closed, as a rule."""
    ways, seen = [[start]], {start}
    for way in ways:
        for target in sorted(targets.get(way[-1], ())):
            if target == start:
                return [*way, start]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    raise AssertionError(f"{start} is in no circle")


def between_siblings(edges: Places) -> dict[str, dict[tuple[str, str], list[str]]]:
    """By package, the imports between its direct members: its modules, and its packages with all that is in them."""
    found: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for (importer, target), places in edges.items():
        one, other = importer.split("."), target.split(".")
        depth = next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
        if depth:  # not where one is the package that holds the other
            sides = (".".join(one[: depth + 1]), ".".join(other[: depth + 1]))
            found[".".join(one[:depth])][sides] += places
    return found


def test_a_room_imports_only_from_the_rooms_below_it():
    """The contract of pyproject.toml, as lint-imports reads it."""
    command = [sys.executable, "-c", LINT_IMPORTS, "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = (done.stdout.partition("Broken contracts\n")[2] or done.stdout) + done.stderr
    lines = [line for line in said.splitlines() if line.strip("- ")]
    refuse(
        lines if done.returncode else [],
        "A module before an arrow may not import the module after it: the order of the rooms is `layers` "
        "in pyproject.toml, and ARCHITECTURE.md, The rooms, says what each is for. Move the code that needs both into "
        "the higher room, or what both need into a lower one.",
    )


def test_no_files_import_each_other_in_a_circle():
    refuse(
        circle_in(imports(ROOT)),
        "These imports close a circle of files. Take the new one away: move what both files need into a file of its "
        "own, or pass it as an argument. An import inside a function, or for type checking, counts too.",
    )


def test_no_packages_import_each_other_in_a_circle():
    found = {package: circle_in(edges) for package, edges in between_siblings(imports(ROOT)).items()}
    refuse(
        [f"{line}  (in {package})" for package, lines in found.items() for line in lines],
        "These imports close a circle between files and folders of one package. "
        "Take the new one away: move what it imports out of that folder, or the importing code into it.",
    )


def write(root: Path, **texts: str) -> None:
    """Modules of example_project; `a__b` is b.py in the folder a."""
    for name, text in texts.items():
        file = root / "example_project" / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize(
    "last_import",
    ["from example_project import one", "from example_project.one import x",
     "def f():\n    import example_project.one", "if TYPE_CHECKING:\n    from example_project.one import x"],
)  # fmt: skip
def test_a_circle_is_found_wherever_its_import_stands(tmp_path, last_import):
    texts = {
        "one": "from example_project import two",
        "two": "import example_project.three",
        "three": last_import,
    }
    write(tmp_path, **texts)
    found = "\n".join(circle_in(imports(tmp_path)))
    assert [f"{name}.py:" in found for name in texts] == [True] * 3


def test_a_circle_of_folders_is_found_where_its_files_make_none(tmp_path):
    write(tmp_path, a__one="import example_project.b.two", b__three="import example_project.a.four")
    write(tmp_path, a__four="", b__two="")
    edges = imports(tmp_path)
    assert circle_in(edges) == []
    first, second = sorted(circle_in(between_siblings(edges)["example_project"]))
    assert first.endswith("a/one.py:1 imports example_project.b.two")
    assert second.endswith("b/three.py:1 imports example_project.a.four")
