"""Links of a page to files outside docs/, as a code host understands them, in the built pages.

A Markdown file of the repository's root is a page in project/, where a stub of one line stands for it.
Any other file can be downloaded; a folder is named without a link. What does not exist stays a warning.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    ROOT / "ARCHITECTURE": "project/architecture",
    ROOT / "CHANGELOG": "project/changelog",
    ROOT / "CODE_OF_CONDUCT": "project/code_of_conduct",
    ROOT / "CONTRIBUTING": "project/contributing",
    ROOT / "README": "project/readme",
    ROOT / "SECURITY": "project/security",
}
FILES = {page: file.with_suffix(".md") for file, page in PAGES.items()}
TARGETS = re.compile(r'(\]\(|src="|srcset=")(?![a-z]+:|#|/)([^)"\s]+)')


def put_text(app: Sphinx, docname: str, source: list[str]) -> None:
    """The text of the root's file in place of its stub, with its links as seen from there."""
    if file := FILES.get(docname):
        app.env.note_dependency(str(file))
        folder = (ROOT / "docs" / docname).parent
        source[0] = TARGETS.sub(
            lambda link: link[1] + os.path.relpath(ROOT / link[2], folder), file.read_text()
        )


def resolve(app: Sphinx, doctree: nodes.document) -> None:
    """Points links at the root's Markdown files to their pages, and takes those at folders away."""
    folder = (ROOT / "docs" / app.env.docname).parent
    for link in list(doctree.findall(pending_xref)):
        target = Path(os.path.normpath(folder / link["reftarget"]))
        if target in PAGES:  # Sphinx takes the suffix from the links at Markdown files
            link["reftarget"] = PAGES[target]
        elif target.is_dir():
            link.replace_self(link.children)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", put_text)
    app.connect("doctree-read", resolve)
    return {"parallel_read_safe": True}
