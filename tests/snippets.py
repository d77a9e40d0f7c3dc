"""Code as docs/ shows it, for tests that run it."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def snippet(page: str, containing: str) -> str:
    """The one block of Python on `page` with these words in it."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return found
