"""Code as docs/ shows it, for tests that run it."""

from __future__ import annotations

from tests.docs.pages import ROOT, Page

DOCS = ROOT / "docs"


def snippet(page: str, containing: str) -> str:
    """The one block of Python on `page` with these words in it."""
    blocks = [block.code for block in Page(DOCS / page).blocks if block.language == "python"]
    (found,) = [code for code in blocks if containing in code]
    return found
