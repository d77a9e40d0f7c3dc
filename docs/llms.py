"""llms.txt: the pages of the documentation with a line each, for language models (llmstxt.org). Written by
`python -m docs.llms`, and with the addresses of the built pages by `python -m sphinx`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that a test can read the pages without Sphinx
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FILE = "llms.txt"
SECTIONS = {
    "tutorial": "Tutorial",
    "how-to": "How-to guides",
    "reference": "Reference",
    "explanation": "Explanation",
    "project": "Project",
}
LONGEST = 240
HEAD = """\
# pgonly-django

> Jobs, cache and sessions for Django on the PostgreSQL you already have, without Redis. Made for jobs of hours on
> instances that are killed without warning: leases, positions and steps, so that no paid call is made twice.

Tasks are Django's own (`django.tasks`), the cache is a Django cache backend, sessions are a `SESSION_ENGINE`. Workers
are started with `python manage.py runworker`. Before you write code with it, read {agents}.
"""


def text(suffix: str = ".md", folder: str = "docs/", agents: str = "`pgonly_django/AGENTS.md`") -> str:
    parts = [HEAD.format(agents=agents)]
    for name, title in SECTIONS.items():
        pages = sorted(page for page in (DOCS / name).glob("*.md") if not is_stub(page))
        lines = [
            f"- [{title_of(page)}]({folder}{name}/{page.stem}{suffix}): {summary_of(page)}" for page in pages
        ]
        if lines:
            parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def is_stub(page: Path) -> bool:
    """Whether it stands for a file of the root, such as CHANGELOG.md."""
    return page.parent.name == "project" and (ROOT / f"{page.stem.upper()}.md").exists()


def title_of(page: Path) -> str:
    return re.search(r"^# (.+)$", page.read_text(), re.MULTILINE)[1]  # type: ignore[index]  # each page has one


def summary_of(page: Path) -> str:
    """Of the paragraph behind the title as many sentences as fit, without its links."""
    paragraph = " ".join(page.read_text().split("\n\n")[1].split())
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", paragraph)
    first, *others = re.split(r"(?<=[.:]) ", plain)
    for sentence in others:
        if len(first) + len(sentence) > LONGEST:
            break
        first += f" {sentence}"
    return first.rstrip(":")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}


def write(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        agents = "`AGENTS.md` in the installed package"
        (Path(app.outdir) / FILE).write_text(text(".html", "", agents))


if __name__ == "__main__":
    (ROOT / FILE).write_text(text())
