"""No circle of files: to understand or change one file of a circle, a reader needs all of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pgonly_django", "example_project")


def modules(root: Path) -> dict[str, Path]:
    """The modules of both packages by name."""
    files = [file for package in PACKAGES for file in (root / package).rglob("*.py")]
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def imports_of(file: Path) -> Iterator[str]:
    """Every name that the file imports, anywhere in it: at its top, inside functions, for type checking."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(root: Path) -> dict[str, set[str]]:
    known = modules(root)

    def module_of(name: str) -> str | None:
        """`package.module.name` stands for its module."""
        return name if name in known else name.rpartition(".")[0]

    return {
        module: {target for name in imports_of(file) if (target := module_of(name)) in known} - {module}
        for module, file in known.items()
    }


def find_circle(root: Path) -> list[str]:
    """The modules of one circle, the first one twice; empty where there is none."""
    try:
        TopologicalSorter(graph(root)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_each_other_in_a_circle():
    assert find_circle(ROOT) == []


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
    (tmp_path / "example_project").mkdir()
    for name, text in texts.items():
        (tmp_path / "example_project" / f"{name}.py").write_text(text)
    assert set(find_circle(tmp_path)) == {f"example_project.{name}" for name in texts}
