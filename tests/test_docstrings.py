"""What a docstring says of a function's result is what its annotation says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.guards import ROOT, place, refuse

A_BOOL = "bool", r"bool|Operation\[bool\]"
PROMISES = {
    r"Returns whether\b": A_BOOL,
    r"^Whether\b": ("a property, or else 'Returns whether'", "property"),
    r"Returns (how many|the number of)\b": ("a number", r"(int|float|Operation\[int\])( \| None)?"),
    r"\bYields\b": ("an iterator", r"(Async)?(Iterator|Iterable|Generator)\[.*"),
}


def functions(code: str) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
            yield node, " ".join(text.split())


def broken(code: str) -> Iterator[tuple[int, str]]:
    """The lines of the functions whose docstring promises another type, and what is wrong."""
    for function, text in functions(code):
        returned = ast.unparse(function.returns or ast.Constant(None))
        is_property = any("property" in ast.unparse(each) for each in function.decorator_list)
        for words, (kind, annotation) in PROMISES.items():
            fits = is_property if annotation == "property" else re.fullmatch(annotation, returned)
            if not fits and (found := re.search(words, text)):
                yield function.lineno, f"{function.name}() says {found[0]!r}: that is {kind}, not {returned}"


def test_a_docstring_promises_the_type_that_its_function_returns():
    files = sorted((ROOT / "pgonly_django").rglob("*.py"))
    refuse(
        [f"{place(file, line)}: {what}" for file in files for line, what in broken(file.read_text())],
        "Say what is returned: 'Returns whether' for a bool, 'Returns how many' or 'Returns the number of' for a "
        "number, 'Yields' for an iterator, and else 'Returns' with the noun.",
    )


@pytest.mark.parametrize(
    ("words", "right", "wrong"),
    [
        ("Deletes it. Returns whether it was there.", "bool", "int"),
        ("Returns how many rows are left.", "int | None", "list[int]"),
        ("Yields the rows.", "Iterator[int]", "list[int]"),
    ],
)
def test_another_type_is_found(words, right, wrong):
    code = 'def f() -> {}:\n    """{}"""'
    assert list(broken(code.format(right, words))) == []
    assert [line for line, _ in broken(code.format(wrong, words))] == [1]
