"""Python to Markdown that reads well on a code host too: paragraphs of 100 characters, tables, signatures."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field
from datetime import timedelta
from enum import Enum
from typing import Any

WIDTH = 100
GROUPED_FROM = 10_000
CELL_WORDS = 60  # with more, a text stands below its table
EXAMPLE = " " * 4  # how its lines begin in a docstring
PAGE = re.compile(r"\bdocs/(?P<page>(?:how-to|reference|explanation)/(?P<name>\w+\.md)(?:#[\w-]*\w)?)")
UNITS = (("day", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def paragraphs(text: str) -> str:
    """In lines of 100 characters. Items of lists begin a line each, and what is indented is an example."""
    return "\n\n".join(map(markdown_of, blocks_of(inspect.cleandoc(text))))


def blocks_of(text: str) -> list[str]:
    """Its paragraphs, lists and examples. An example may have empty lines in it."""
    blocks: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        if blocks and blocks[-1].startswith(EXAMPLE) and block.startswith(EXAMPLE):
            blocks[-1] += f"\n\n{block}"
        else:
            blocks.append(block)
    return blocks


def markdown_of(block: str) -> str:
    if block.startswith(EXAMPLE):
        return f"```python excerpt\n{textwrap.dedent(block)}\n```"
    indent = "  " if block.startswith("- ") else ""
    wrapper = textwrap.TextWrapper(
        WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    items = re.split(r"\n(?=- )", marked_up(block))
    return "\n".join(wrapper.fill(" ".join(item.split())) for item in items)


def documentation(thing: Any) -> str:
    return paragraphs(own_doc(thing))


def own_doc(thing: Any) -> str:
    """The docstring, but not an inherited one, nor that of a dataclass or a model which only repeats its fields."""
    doc = inspect.cleandoc(thing.__doc__ or "")
    return "" if doc.startswith(f"{getattr(thing, '__name__', '')}(") else doc


def in_one_line(thing: Any) -> str:
    """The whole docstring without its examples."""
    blocks = [block for block in blocks_of(own_doc(thing)) if not block.startswith(EXAMPLE)]
    return " ".join(" ".join(blocks).split())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell(each) for each in line)} |" for line in lines)


def described(head: str, rows: Iterable[tuple[str, Any]]) -> str:
    """A table of names and their docstrings. One that is long is a paragraph below it."""
    short, long = [], []
    for name, thing in rows:
        (long if len(own_doc(thing).split()) > CELL_WORDS else short).append((name, thing))
    parts = [table([head, ""], [(name, in_one_line(thing)) for name, thing in short])] if short else []
    parts += [paragraphs(f"**{name}** {in_one_line(thing)}") for name, thing in long]
    return "\n\n".join(parts)


def cell(text: str) -> str:
    return marked_up(" ".join(text.split())).replace("|", "\\|")


def marked_up(text: str) -> str:
    """Outside of code `<token>` would be a tag of HTML, which is not displayed; docs/how-to/cache.md becomes a link."""
    return re.sub(r"(`[^`]*`)|<|" + PAGE.pattern, as_shown, text)


def as_shown(found: re.Match[str]) -> str:
    if found["page"]:
        return f"[{found['name']}](../{found['page']})"
    return found[1] or "&lt;"


def code(value: Any) -> str:
    return f"`{value}`"


def duration(value: timedelta) -> str:
    seconds = value.total_seconds()
    name, size = next((unit for unit in UNITS if seconds and seconds % unit[1] == 0), UNITS[-1])
    count = seconds / size
    return f"{count:g} {name}{'s' if name == 'day' and count != 1 else ''}"


def literal(value: Any) -> str:
    """A default as people say it: 7 days, `None`, `"pickle"`."""
    if isinstance(value, timedelta):
        return duration(value)
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return code(f'"{value}"')
    if isinstance(value, int) and not isinstance(value, bool):
        return code(f"{value:_}" if abs(value) >= GROUPED_FROM else value)
    return code(repr(value).replace("'", '"'))


def default_of(field: Field[Any]) -> Any:
    return field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc] # one of both


def comments(of: type) -> dict[str, str]:
    """What the comments right above the fields of a class say, by field."""
    found: dict[str, str] = {}
    lines: list[str] = []
    for line in inspect.getsource(of).splitlines():
        if comment := re.fullmatch(r"    # (.*)", line):
            lines.append(comment[1])
        elif name := re.match(r"    (\w+)(?::| =) ", line):
            found[name[1]] = " ".join(lines)
            lines = []
        else:
            lines = []
    return found


def signature(function: Callable[..., Any], name: str = "", width: int = 88) -> str:
    """As it stands in code, without types: `redrive(jobs, *, per_minute=None)`; longer than `width` it has a line for
    each parameter."""
    found = inspect.signature(function).replace(return_annotation=inspect.Signature.empty)
    parameters = [each for key, each in found.parameters.items() if key not in ("self", "cls")]
    shown = str(found.replace(parameters=[each.replace(annotation=each.empty) for each in parameters]))
    shown = re.sub(r"<[^<>]*>", "...", shown).replace("=Ellipsis", "=...").replace("'", '"')
    name = name or function.__name__
    if len(name + shown) <= width:
        return name + shown
    lines = "".join(f"    {each},\n" for each in split_at_commas(shown[1:-1]))
    return f"{name}(\n{lines})"


def split_at_commas(text: str) -> list[str]:
    """At those that are in no brackets and no quotes."""
    parts, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == '"'
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
