"""The pages of README.md and docs/ as their tests read them: code blocks, headings and links."""

from __future__ import annotations

import itertools
import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from docs.llms import is_stub

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(
    r"^ *(?P<marks>`{3,})(?P<info>[^\n`]*)\n(?P<code>.*?)^ *(?P=marks) *$", re.MULTILINE | re.DOTALL
)
INLINE_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)(?: \"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: the words behind its fence, its code without the indentation, the line where the code begins."""

    info: str
    code: str
    line: int

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def is_excerpt(self) -> bool:
        return "excerpt" in self.info.split()


class Page:
    """`name`: "README", "how-to/queue"."""

    def __init__(self, path: Path, root: Path = ROOT) -> None:
        self.path = path
        self.text = path.read_text()
        self.name = path.relative_to(root).as_posix().removeprefix("docs/").removesuffix(".md")

    @cached_property
    def blocks(self) -> list[Block]:
        return [
            Block(
                found["info"].strip(),
                textwrap.dedent(found["code"]),
                self.text.count("\n", 0, found.start("code")) + 1,
            )
            for found in FENCE.finditer(self.text)
        ]

    @cached_property
    def prose(self) -> str:
        """The text without its blocks."""
        return FENCE.sub("", self.text)

    @cached_property
    def inline_code(self) -> list[str]:
        return [" ".join(code.split()) for _, code in INLINE_CODE.findall(self.prose)]

    @cached_property
    def links(self) -> list[str]:
        return [link["target"] for link in LINK.finditer(INLINE_CODE.sub("", self.prose))]

    @cached_property
    def anchors(self) -> set[str]:
        """What code hosts, and MyST, make of the headings: a second one of the same words ends in -1."""
        anchors: set[str] = set()
        for heading in HEADING.findall(self.prose):
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
            anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            again = itertools.chain([anchor], (f"{anchor}-{number}" for number in itertools.count(1)))
            anchors.add(next(each for each in again if each not in anchors))
        return anchors

    @property
    def before(self) -> Path:
        """What runs before the first block: what the text assumes that the reader has."""
        return Path(__file__).parent / "before" / f"{self.name.replace('-', '_').lower()}.py"


def broken_links(page: Page, pages: Sequence[Page]) -> list[str]:
    """Links at files that do not exist, and at headings that `pages` do not have."""
    anchors = {each.path: each.anchors for each in pages}
    broken = []
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.path.parent / path)) if path else page.path
        if not target.exists() or (anchor and anchor not in anchors.get(target, ())):
            broken.append(link)
    return broken


# The stubs in docs/project/ stand for files of the root, whose links are tested as theirs.
PAGES = [
    Page(path)
    for path in [
        *sorted(ROOT.glob("*.md")),
        ROOT / "pgonly_django" / "AGENTS.md",
        *sorted(DOCS.rglob("*.md")),
    ]
    if not is_stub(path)
]


def snippet(page: str, containing: str) -> str:
    """The one block of Python on `page` of docs/ with these words in it, also where it is an excerpt."""
    blocks = [block.code for block in Page(DOCS / page).blocks if block.language == "python"]
    (found,) = [code for code in blocks if containing in code]
    return found
